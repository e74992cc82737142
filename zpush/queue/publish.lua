-- Appends entries to one stream, as long as its bound allows.
-- KEYS[1]: the stream. ARGV: the bound, then per entry how many arguments it has, and these.
-- Answers how many were taken: always the first ones, so the caller knows exactly which were not.
local room = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1])
local taken, i = 0, 2
while i <= #ARGV and taken < room do
  local width = tonumber(ARGV[i])
  redis.call('XADD', KEYS[1], '*', unpack(ARGV, i + 1, i + width))
  i = i + width + 1
  taken = taken + 1
end
return taken
