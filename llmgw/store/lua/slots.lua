-- The slots of one row: a HASH of machine -> slots held, and "@" .. machine -> when it was last heard of (us).

-- {machine: held} with the dead gone and this machine in it, and the sum.
local function open_slots(key, machine, us, dead_us)
  local fields = redis.call('HGETALL', key)
  local held, seen_us, sum = {}, {}, 0
  for index = 1, #fields, 2 do
    local name, value = fields[index], tonumber(fields[index + 1])
    if string.sub(name, 1, 1) == '@' then
      seen_us[string.sub(name, 2)] = value
    else
      held[name] = value
    end
  end
  for name, count in pairs(held) do
    if name ~= machine and us - (seen_us[name] or 0) > dead_us then
      redis.call('HDEL', key, name, '@' .. name)
      held[name] = nil
    else
      sum = sum + count
    end
  end
  if us - (seen_us[machine] or 0) > dead_us then
    sum = sum - (held[machine] or 0)
    held[machine] = 0
  end
  held[machine] = held[machine] or 0
  return held, sum
end

local function keep_slots(key, machine, held, us, dead_us)
  redis.call('HSET', key, machine, whole(held), '@' .. machine, whole(us))
  redis.call('PEXPIRE', key, math.ceil(2 * dead_us / 1000))
end
