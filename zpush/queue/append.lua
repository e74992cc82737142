-- Appends entries, and forgets the oldest past a bound.
-- KEYS[1]: the stream. ARGV: about how many are kept, then a key and a payload each.
for i = 2, #ARGV, 2 do
  redis.call('XADD', KEYS[1], '*', 'key', ARGV[i], 'payload', ARGV[i + 1])
end
return redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1])
