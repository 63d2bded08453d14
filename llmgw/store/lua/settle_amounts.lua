-- Gives back what reservations did not use, and adds what they used beyond.
--
-- Guarantee: each batch counts once, by its number. A return comes out of the oldest buckets that may have paid
--   for the reservation, never makes one negative, and what they do not hold any more is not returned.
-- KEYS[1] last reply of this asker
-- KEYS[2...] the ring of each entry
-- ARGV[1] number of the batch; ARGV[2] how long its reply stays (us)
-- ARGV, 7 for each entry: width of a bucket (us; 0: calendar), buckets that count, life of a lease (us), end of
--   the period (us), how long the ring stays after that (us), time of the reservation (us, on this clock; early
--   by a bucket's width at most), delta
-- Reply: text "number time", time in us.
-- include once
-- include ring

local ENTRY = 7

local function take_back(ring, at_us, life_us, amount)
  local first = bucket_of(ring.width_us, at_us - life_us) - 1
  local last = bucket_of(ring.width_us, at_us + life_us + ring.width_us)
  local names, amounts = read_buckets(ring.key, math.max(first, ring.tail), math.min(last, ring.head))
  for index = 1, #names do
    local part = math.min(tonumber(amounts[index]) or 0, amount)
    if part > 0 then
      redis.call('HINCRBY', ring.key, names[index], whole(-part))
      ring.sum = ring.sum - part
      amount = amount - part
    end
  end
end

local number = ARGV[1]
local before = replied(KEYS[1], number)
if before then return before end

local us = now_us()
for index = 2, #KEYS do
  local at = 2 + (index - 2) * ENTRY
  local width_us, count, life_us = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local end_us, late_us = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local at_us, delta = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
  local ring = open_ring(KEYS[index], width_us, count, us)
  if delta > 0 then
    add(ring, ring.head, delta)
  else
    take_back(ring, at_us, life_us, -delta)
  end
  close_ring(ring, width_us == 0 and end_us - us + late_us or count * width_us)
end
return reply_once(KEYS[1], { number, whole(us) }, tonumber(ARGV[2]))
