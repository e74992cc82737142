-- A new handshake: wins, with an epoch above whatever is stored. One that is carried out after `until` is none any more:
-- it keeps its epoch, and wins as a late registration does.
-- KEYS[1] lease   ARGV now_ms, node id, user id, ttl_ms, until_ms (this server's time; 0: not known)
-- → {epoch, the replaced value | false | "" for foreign data}, or {0, the value that holds} where it came too late
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then
  if string.sub(stored.err, 1, 9) ~= 'WRONGTYPE' then return stored end
  stored = ''
end
local epoch = tonumber(ARGV[1])
local held, node
if stored then held, node = string.match(stored, '^[1-9]%d? (%d+) ([!-~]+) ') end
if held and #held <= 15 and tonumber(held) >= epoch then
  local time = redis.call('TIME')
  if ARGV[5] == '0' or time[1] * 1000 + time[2] / 1000 <= tonumber(ARGV[5]) then
    epoch = tonumber(held) + 1
  elseif tonumber(held) > epoch or node ~= ARGV[2] then
    return {0, stored}
  end
end
local value = string.format('1 %.0f %s %s', epoch, ARGV[2], ARGV[3])
redis.call('SET', KEYS[1], value, 'PX', ARGV[4])
return {epoch, stored}
