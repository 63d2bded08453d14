-- A call is made once: its asker numbers its calls upward and has one of them in the air at a time.

-- The reply of this very call, or of a later one, where there is one.
local function replied(key, number)
  local last = redis.call('GET', key)
  if last and tonumber(string.match(last, '^%d+')) >= tonumber(number) then return last end
  return nil
end

-- Keeps the reply, for as long as its asker may ask again, and returns it.
local function reply_once(key, parts, stays_us)
  local reply = table.concat(parts, ' ')
  redis.call('SET', key, reply, 'PX', math.ceil(stays_us / 1000))
  return reply
end
