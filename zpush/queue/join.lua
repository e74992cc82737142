-- Says that a reader lives, and learns of the others. KEYS[1]: the readers. ARGV: member, TTL in ms.
-- By the server's clock, so that the boxes' clocks need not agree. Answers the living members.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1)
