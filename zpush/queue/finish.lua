-- Forgets entries whose outcomes are known. KEYS[1]: the stream. ARGV: token, ids. Answers 1, or 0 where the lease is lost.
if redis.call('GET', '{' .. KEYS[1] .. '}:reader') ~= ARGV[1] then
  return 0
end
redis.call('XACK', KEYS[1], 'zpush', unpack(ARGV, 2))
redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
return 1
