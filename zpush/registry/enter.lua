-- Enters clients into their user's set. What has expired there leaves, and then what expires first, down to `most`.
-- The time is this server's: a client's box may have any.
-- KEYS[1] the user's set   ARGV ttl_ms, most, client id …   → how many did not fit
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local expired = redis.pcall('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms)
if type(expired) == 'table' then return expired end
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], now_ms + ARGV[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[2])
