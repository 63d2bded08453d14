-- Leases amounts of sliding windows and calendar periods to a machine, which then admits from them alone.
--
-- Guarantee: what is granted is deducted here and now, and no ring's sum goes above its limit by it.
--   The same number again brings the same reply and deducts nothing; a lower one changes nothing.
-- KEYS[1] last reply of this asker
-- KEYS[2] which memory the hash slot has
-- KEYS[3...] the ring of each ask
-- ARGV[1] number of the call; ARGV[2] how long its reply stays (us); ARGV[3] how long what names the memory
--   does (us); ARGV[4] the epoch that the asker knew, 0: none; ARGV[5] when it was last answered under it (us)
-- ARGV, 9 for each ask: width of a bucket (us; 0: calendar), buckets that count, limit, wanted, need, least,
--   parts, end of the period (us), how long the ring stays after that (us)
-- Reply: text "number time epoch since" and for each ask "granted wait used": times in us, since as in memory.lua,
--   wait until `least` fits (-1: never), used by the whole fleet with this grant.
-- include once
-- include ring
-- include memory

local ASK = 9

-- Until `need` has left the ring.
local function frees_us(ring, count, need, us, end_us)
  if ring.width_us == 0 then return math.max(end_us - us, 0) end
  local _, amounts = read_buckets(ring.key, ring.tail, ring.head)
  for index = 1, #amounts do
    need = need - (tonumber(amounts[index]) or 0)
    if need <= 0 then return (ring.tail + index - 1 + count) * ring.width_us - us end
  end
  return -1
end

local number = ARGV[1]
local before = replied(KEYS[1], number)
if before then return before end

local us = now_us()
local memory = memory_of(KEYS[2], us, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]))
local parts = { number, whole(us), memory }
for index = 3, #KEYS do
  local at = 5 + (index - 3) * ASK
  local width_us, count, limit = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local wanted, need, least = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  local divisor, end_us, late_us = tonumber(ARGV[at + 7]), tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9])
  local ring = open_ring(KEYS[index], width_us, count, us)
  local free = limit - ring.sum
  local granted, wait_us = 0, 0
  if free < least then
    wait_us = frees_us(ring, count, least - free, us, end_us)
  else
    granted = math.min(wanted, free, math.max(need, least, math.floor(free / divisor)))
    add(ring, ring.head, granted)
  end
  close_ring(ring, width_us == 0 and end_us - us + late_us or count * width_us)
  parts[#parts + 1] = whole(granted) .. ' ' .. whole(wait_us) .. ' ' .. whole(ring.sum)
end
return reply_once(KEYS[1], parts, tonumber(ARGV[2]))
