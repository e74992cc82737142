-- Extends a lease that is still the caller's.
-- KEYS[1] lease   ARGV "epoch node", ttl_ms   → 1 extended, 0 absent or foreign, else the value that is there
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then
  if string.sub(stored.err, 1, 9) ~= 'WRONGTYPE' then return stored end
  return 0
end
if not stored then return 0 end
if string.match(stored, '^[1-9]%d? (%d+ [!-~]+) ') ~= ARGV[1] then return stored end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
