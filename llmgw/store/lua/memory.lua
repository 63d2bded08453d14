-- Which memory this is: "epoch before since stamp", times in us. `epoch`: when it began, as it was first needed
-- here; `stamp`: of the last call. An asker tells the epoch that it knew, and when it was last answered under it.
-- Nothing kept: a new memory. An earlier epoch, or an earlier stamp: Redis went on from an old copy (a snapshot, a
-- replica that lagged), and that is a new memory too; `since`: the stamp of that copy, `before`: the epoch that the
-- asker knew. Epochs only rise. Returns "epoch since": since is 0 where the asker had known yet another one.
local function memory_of(key, us, stays_us, known, heard_us)
  local kept = redis.call('GET', key)
  local epoch, before, since, stamp = math.max(us, known + 1), 0, 0, us
  if kept then
    local numbers = {}
    for number in string.gmatch(kept, '%d+') do numbers[#numbers + 1] = tonumber(number) end
    if numbers[1] < known or (numbers[1] == known and numbers[4] < heard_us) then
      before, since = known, numbers[4]
    else
      epoch, before, since = numbers[1], numbers[2], numbers[3]
    end
    stamp = math.max(us, numbers[4])
  end
  local text = table.concat({ whole(epoch), whole(before), whole(since), whole(stamp) }, ' ')
  redis.call('SET', key, text, 'PX', whole(math.ceil(stays_us / 1000)))
  return whole(epoch) .. ' ' .. whole(known == before and since or 0)
end
