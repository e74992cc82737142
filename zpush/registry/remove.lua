-- Deletes a lease that is unchanged.
-- KEYS[1] lease   ARGV "epoch node"   → 1 deleted, 0 not
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then
  if string.sub(stored.err, 1, 9) ~= 'WRONGTYPE' then return stored end
  return 0
end
if not stored or string.match(stored, '^[1-9]%d? (%d+ [!-~]+) ') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
