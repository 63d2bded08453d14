-- Returns slots of a machine, or takes some for what runs already.
--
-- Guarantee: each batch counts once, by its number; no machine holds less than nothing.
-- KEYS[1] last reply of this asker
-- KEYS[2...] the slots of each entry
-- ARGV[1] number of the batch; ARGV[2] how long its reply stays (us); ARGV[3] machine; ARGV[4] silence after which
--   a machine is dead (us)
-- ARGV[5...] delta of each entry: < 0 returns
-- Reply: text "number time", time in us.
-- include once
-- include ring
-- include slots

local number, machine, dead_us = ARGV[1], ARGV[3], tonumber(ARGV[4])
local before = replied(KEYS[1], number)
if before then return before end

local us = now_us()
for index = 2, #KEYS do
  local held = open_slots(KEYS[index], machine, us, dead_us)
  local mine = math.max(held[machine] + tonumber(ARGV[3 + index]), 0)
  keep_slots(KEYS[index], machine, mine, us, dead_us)
end
return reply_once(KEYS[1], { number, whole(us) }, tonumber(ARGV[2]))
