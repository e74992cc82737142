-- A repair, or a registration that comes late: carries its own epoch, wins where the stored one is absent, older or its own.
-- KEYS[1] lease   ARGV epoch, node id, user id, ttl_ms   → false where it won, else the value that holds
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then
  if string.sub(stored.err, 1, 9) ~= 'WRONGTYPE' then return stored end
  stored = false
end
local held, node
if stored then held, node = string.match(stored, '^[1-9]%d? (%d+) ([!-~]+) ') end
if held and #held <= 15 then
  local newer = tonumber(held) - tonumber(ARGV[1])
  if newer > 0 or (newer == 0 and node ~= ARGV[2]) then return stored end
end
redis.call('SET', KEYS[1], string.format('1 %s %s %s', ARGV[1], ARGV[2], ARGV[3]), 'PX', ARGV[4])
return false
