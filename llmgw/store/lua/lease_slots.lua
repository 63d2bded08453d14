-- Takes slots for a machine, which keeps them until it returns them or is not heard of any more.
--
-- Guarantee: what all machines hold stays within the limit by what is granted here; the dead hold nothing.
--   The same number again brings the same reply and takes nothing; a lower one changes nothing.
-- KEYS[1] last reply of this asker
-- KEYS[2] which memory the hash slot has
-- KEYS[3...] the slots of each ask
-- ARGV[1] number of the call; ARGV[2] how long its reply stays (us); ARGV[3] machine; ARGV[4] silence after which
--   a machine is dead (us); ARGV[5] how long what names the memory stays (us); ARGV[6] the epoch that the
--   asker knew, 0: none; ARGV[7] when it was last answered under it (us)
-- ARGV, 6 for each ask: limit, wanted, need, least, parts, what the machine knows it holds (raises what is here)
-- Reply: text "number time epoch since" and for each ask "granted wait used held": since as in memory.lua; wait
--   is 0 or -2, unknown; used is by all machines, held by this one, both with this grant.
-- include once
-- include ring
-- include memory
-- include slots

local ASK = 6

local number, machine, dead_us = ARGV[1], ARGV[3], tonumber(ARGV[4])
local before = replied(KEYS[1], number)
if before then return before end

local us = now_us()
local memory = memory_of(KEYS[2], us, tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]))
local parts = { number, whole(us), memory }
for index = 3, #KEYS do
  local at = 7 + (index - 3) * ASK
  local limit, wanted, need = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local least, divisor, known = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  local held, used = open_slots(KEYS[index], machine, us, dead_us)
  local mine = math.max(held[machine], known)
  used = used - held[machine] + mine
  local free = limit - used
  local granted, wait_us = 0, -2
  if free >= least then
    granted = math.min(wanted, free, math.max(need, least, math.floor(free / divisor)))
    wait_us = 0
  end
  keep_slots(KEYS[index], machine, mine + granted, us, dead_us)
  parts[#parts + 1] = table.concat({ whole(granted), whole(wait_us), whole(used + granted), whole(mine + granted) }, ' ')
end
return reply_once(KEYS[1], parts, tonumber(ARGV[2]))
