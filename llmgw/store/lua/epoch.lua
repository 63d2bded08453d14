-- The moment this memory began (us), as it was first needed here. It stays until the memory is lost: flushed, or
-- a replica without it took over. So a machine sees at once that what it knows of is not counted any more.
local function epoch_of(key, us, stays_us)
  redis.call('SET', key, whole(us), 'NX')
  redis.call('PEXPIRE', key, whole(math.ceil(stays_us / 1000)))
  return redis.call('GET', key)
end
