"""Compiled decisions and accounts: the shared segment and its series, choice by weight, the log line."""
