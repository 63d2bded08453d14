# What the limiter keeps in the shared segment, beside the rows.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from llmgw._core.window cimport IMAGE_BYTES

cdef enum:
    UNITS = 4
    PARTS_MAX = 32                  # rows of a hold
    NAMES_MAX_BYTES = 512
    SLOTS_MAX = 256                 # as many as `server.workers` may be
    LOCK_BYTES = 128


cdef struct HoldRecord:
    int32_t state                   # FREE, RESERVED, SENT, KNOWN
    int32_t caller_parts            # the first so many rows
    int32_t target_parts            # the others
    int32_t names_bytes
    uint64_t attempt_id
    int64_t amounts[UNITS]          # reserved, in each unit
    int64_t finals[UNITS]           # what it came to, in the state KNOWN
    int64_t input_tokens            # of the prompt, estimated
    int64_t input_pusd              # per token
    int64_t output_pusd
    int64_t request_pusd
    int64_t relayed_bytes           # of text, to the client
    int64_t where[PARTS_MAX]        # the bucket's number, or the period's start
    uint32_t rows[PARTS_MAX]
    char names[NAMES_MAX_BYTES]     # what the ledger needs where the worker dies


cdef struct Undo:
    uint32_t row
    int32_t bucket                  # index in the ring; -1: none was changed
    int64_t bucket_value
    char image[IMAGE_BYTES]


cdef struct Header:
    char lock[LOCK_BYTES]
    int64_t anchor_us               # segment time is this plus CLOCK_BOOTTIME
    int64_t last_us                 # the latest moment that was seen
    uint64_t boot[2]                # which boot the anchor is for
    int64_t repairs                 # of what dead holders of the lock had begun
    int64_t waiting_us[SLOTS_MAX]   # until then what rows say of waiters in that slot's worker is true
    int64_t undo_count              # rows in `undo`; > 0: a change is under way
    int64_t undo_at                 # offset of a hold's record from the header; 0: none
    HoldRecord undo_hold
    Undo undo[PARTS_MAX]
