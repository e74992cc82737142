-- Entries of a stream after one and up to another, at most so many, at most so many bytes (passed by one step at most).
-- KEYS[1]: the stream. ARGV: the id before, the last id, most entries, most bytes.
local STEP = 10
local count, room, from, found = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[1], {}
while count > #found and room > 0 do
  local entries = redis.call('XRANGE', KEYS[1], '(' .. from, ARGV[2], 'COUNT', math.min(STEP, count - #found))
  if #entries == 0 then
    break
  end
  for _, entry in ipairs(entries) do
    found[#found + 1] = entry
    for _, value in ipairs(entry[2]) do
      room = room - #value
    end
  end
  from = entries[#entries][1]
end
return found
