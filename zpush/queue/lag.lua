-- KEYS[1]: a stream. Answers { entries, age of the first in ms by the server's clock }.
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not first then
  return { 0, 0 }
end
local time = redis.call('TIME')
local age = time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(string.match(first[1], '^%d+'))
return { redis.call('XLEN', KEYS[1]), math.max(age, 0) }
