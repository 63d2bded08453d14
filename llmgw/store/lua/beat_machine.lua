-- This machine is alive: how many are?
--
-- Guarantee: a machine counts from its first beat until it has been silent for too long.
-- KEYS[1] machines: a ZSET of machine -> last beat (us)
-- ARGV[1] machine; ARGV[2] silence after which a machine is dead (us)
-- Reply: text "0 time machines", time in us.
-- include ring

local machine, dead_us = ARGV[1], tonumber(ARGV[2])

local us = now_us()
redis.call('ZADD', KEYS[1], whole(us), machine)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. whole(us - dead_us))
redis.call('PEXPIRE', KEYS[1], math.ceil(2 * dead_us / 1000))
return table.concat({ '0', whole(us), whole(redis.call('ZCARD', KEYS[1])) }, ' ')
