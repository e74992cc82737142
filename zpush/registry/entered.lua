-- The clients in a user's set. What has expired there leaves first, by this server's time.
-- KEYS[1] the user's set   → client ids
local time = redis.call('TIME')
local expired = redis.pcall('ZREMRANGEBYSCORE', KEYS[1], '-inf', time[1] * 1000 + math.floor(time[2] / 1000))
if type(expired) == 'table' then return expired end
return redis.call('ZRANGE', KEYS[1], 0, -1)
