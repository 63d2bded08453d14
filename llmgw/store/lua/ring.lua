-- The ring of one row, as the scripts that include this file see it.
--
-- A HASH: `head` number of the newest bucket, `tail` number of the oldest that may hold something,
-- `sum` over all of them, and each bucket's number with its amount. A bucket's number is the
-- microsecond divided by its width; width 0 is a calendar period, which is bucket 0 alone.
-- Numbers stay below 2^53, up to which Lua's are whole.

local function whole(number)
  return string.format('%.0f', number)
end

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Number of the bucket that a microsecond falls in.
local function bucket_of(width_us, us)
  if width_us == 0 then return 0 end
  return math.floor(us / width_us)
end

-- Names and amounts of the buckets from..to, oldest first. At most a ring of them.
local function read_buckets(key, from, to)
  if to < from then return {}, {} end
  local names = {}
  for number = from, to do names[#names + 1] = whole(number) end
  return names, redis.call('HMGET', key, unpack(names))
end

-- Removes the buckets from..to; their sum.
local function take_out(key, from, to)
  local names, amounts = read_buckets(key, from, to)
  if #names == 0 then return 0 end
  redis.call('HDEL', key, unpack(names))
  local sum = 0
  for index = 1, #names do sum = sum + (tonumber(amounts[index]) or 0) end
  return sum
end

-- The ring at this moment: what has left it is gone. `count` buckets count, the newest included.
local function open_ring(key, width_us, count, us)
  local head = bucket_of(width_us, us)
  local kept = redis.call('HMGET', key, 'head', 'tail', 'sum')
  local last = tonumber(kept[1]) or head
  local tail = tonumber(kept[2]) or head
  local sum = tonumber(kept[3]) or 0
  if last > head then -- the clock went back: what lies ahead counts as of now
    local ahead = take_out(key, math.max(tail, head + 1), last)
    if ahead > 0 then redis.call('HINCRBY', key, whole(head), whole(ahead)) end
    tail = math.min(tail, head)
  end
  local first = head - count + 1
  if last < first then
    redis.call('DEL', key)
    tail, sum = head, 0
  elseif tail < first then
    sum = sum - take_out(key, tail, first - 1)
    tail = first
  end
  return { key = key, width_us = width_us, head = head, tail = tail, sum = sum }
end

local function add(ring, number, amount)
  if amount == 0 then return end
  redis.call('HINCRBY', ring.key, whole(number), whole(amount))
  ring.sum = ring.sum + amount
end

local function close_ring(ring, stays_us)
  redis.call('HSET', ring.key, 'head', whole(ring.head), 'tail', whole(ring.tail), 'sum', whole(ring.sum))
  redis.call('PEXPIRE', ring.key, whole(math.max(math.ceil(stays_us / 1000), 1)))
end
