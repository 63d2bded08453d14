-- Of all machines that would tell of something, one does.
--
-- Guarantee: a word belongs to who claimed it first, until it has stayed for so long or was given up. Who claims it
--   again is told the same.
-- KEYS[1] word
-- ARGV[1] who claims it; ARGV[2] how long it stays (us); 0: it is given up, whoever had it
-- Reply: text "0 time is_ours", time in us; is_ours 1 or 0.
-- include ring

local who, stays_us = ARGV[1], tonumber(ARGV[2])

local us = now_us()
if stays_us == 0 then
  redis.call('DEL', KEYS[1])
  return table.concat({ '0', whole(us), '0' }, ' ')
end
redis.call('SET', KEYS[1], who, 'NX', 'PX', whole(math.ceil(stays_us / 1000)))
local is_ours = redis.call('GET', KEYS[1]) == who and '1' or '0'
return table.concat({ '0', whole(us), is_ours }, ' ')
