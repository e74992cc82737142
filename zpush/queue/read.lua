-- Hands the lease's holder the entries after the last one it received.
-- KEYS[1]: the stream. ARGV: token, most entries, most bytes (passed by at most one step), last id received.
-- Answers nil where the lease is lost, else { 1 where there may be more, entries }.
--
-- Pending entries come first: those of an earlier reader, and those of an answer that never arrived. So a read
-- that is repeated after a lost connection skips nothing.
local STEP = 50
if redis.call('GET', '{' .. KEYS[1] .. '}:reader') ~= ARGV[1] then
  return false
end
local count, room, from, found = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], {}
while count > #found and room > 0 do
  local reply = redis.call('XREADGROUP', 'GROUP', 'zpush', 'reader',
    'COUNT', math.min(STEP, count - #found), 'STREAMS', KEYS[1], from)
  local entries = reply and reply[1][2] or {}
  if #entries > 0 then
    for _, entry in ipairs(entries) do
      found[#found + 1] = entry
      for _, value in ipairs(entry[2] or {}) do
        room = room - #value
      end
    end
    if from ~= '>' then
      from = entries[#entries][1]
    end
  elseif from == '>' then
    return { 0, found }
  else
    from = '>'
  end
end
return { 1, found }
