-- One payment: its windows over card, customer, device, IP address and e-mail, then its own rows, in one round trip.
-- A key holds an entity's rows, as far as a window may reach and a day more for late ones, one after another, each of one size, in order of arrival. Scanning some
-- forty rows costs less than a sorted set, whose members would have to be parsed one by one, and late rows need no care.
-- KEYS: reviews, card, customer, device, ip, email; an absent entity's key is empty.
-- ARGV: time (µs) and amount (minor units) as doubles, then 8-byte ids of card, customer, device, ip, merchant.
-- Returns 43 doubles, little endian, in the order of the model's columns, and last the reviews of 24 hours.
local now, amount, card, customer, device, ip, merchant = struct.unpack('<ddc8c8c8c8c8', ARGV[1])
local NONE = '\0\0\0\0\0\0\0\0'
local m1, m10, h1 = now - 60e6, now - 600e6, now - 3600e6
local d1, d7, d30 = now - 86400e6, now - 604800e6, now - 2592000e6
local LATE = 86400
local read, pack, call = struct.unpack, struct.pack, redis.call

-- Returns the rows of a key as they were; then adds one, and drops those at the front that no window can reach.
local function rows_of(key, own, size, window_s)
  local rows = call('GET', key) or ''
  local from, oldest = 1, now - (window_s + LATE) * 1e6
  while from <= #rows and read('<d', rows, from) <= oldest do from = from + size end
  if from > 1 then rows = string.sub(rows, from) end
  call('SET', key, rows .. own, 'EX', window_s + 2 * LATE)
  return rows
end

local function first(seen, id)
  if id == NONE or seen[id] then return 0 end
  seen[id] = true
  return 1
end

local function or_missing(count) if count == 0 then return -1 end return count end
local function mean(sum, count) if count == 0 then return -1 end return sum / count end
local function since(newest) if newest < 0 then return -1 end return (now - newest) / 1e6 end

local function of_card(key)
  if key == '' then return pack('<dddddddddddddd', 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1) end
  local n1, n10, nh, nd, n7, n30, sh, sd, s7, s30 = 1, 1, 1, 1, 1, 0, amount, amount, amount, 0
  local merchants, ips, devices, newest = {}, {}, {}, -1
  local nm, ni, nv = first(merchants, merchant), first(ips, ip), first(devices, device)
  local rows = rows_of(key, pack('<ddc8c8c8', now, amount, merchant, ip, device), 40, 2592000)
  for at = 1, #rows, 40 do
    local time, cents, m, i, v = read('<ddc8c8c8', rows, at)
    if time > d30 and time <= now then
      n30, s30, nv = n30 + 1, s30 + cents, nv + first(devices, v)
      if time > newest then newest = time end
      if time > d7 then
        n7, s7, ni = n7 + 1, s7 + cents, ni + first(ips, i)
        if time > d1 then
          nd, sd, nm = nd + 1, sd + cents, nm + first(merchants, m)
          if time > h1 then
            nh, sh = nh + 1, sh + cents
            if time > m10 then
              n10 = n10 + 1
              if time > m1 then n1 = n1 + 1 end
            end
          end
        end
      end
    end
  end
  return pack('<dddddddddddddd', n1, n10, nh, nd, n7, n30 + 1, sh, sd, s7, mean(s30, n30), or_missing(nm),
    or_missing(ni), or_missing(nv), since(newest))
end

local function of_customer(key)
  if key == '' then return pack('<ddddddd', 0, 0, 0, -1, -1, -1, -1) end
  local nh, nd, n30, s30, devices, cards, newest = 1, 1, 0, 0, {}, {}, -1
  local nv, nc = first(devices, device), first(cards, card)
  local rows = rows_of(key, pack('<ddc8c8', now, amount, device, card), 32, 2592000)
  for at = 1, #rows, 32 do
    local time, cents, v, c = read('<ddc8c8', rows, at)
    if time > d30 and time <= now then
      n30, s30, nv = n30 + 1, s30 + cents, nv + first(devices, v)
      if time > newest then newest = time end
      if time > d7 then
        nc = nc + first(cards, c)
        if time > d1 then
          nd = nd + 1
          if time > h1 then nh = nh + 1 end
        end
      end
    end
  end
  return pack('<ddddddd', nh, nd, n30 + 1, mean(s30, n30), or_missing(nv), or_missing(nc), since(newest))
end

-- Returns how many of the ids were seen after each of four times; `newest` holds when each was seen last.
local function distinct(newest, a, b, c, d)
  local na, nb, nc, nd = 0, 0, 0, 0
  for _, time in pairs(newest) do
    if time > d then
      nd = nd + 1
      if time > c then
        nc = nc + 1
        if time > b then
          nb = nb + 1
          if time > a then na = na + 1 end
        end
      end
    end
  end
  return or_missing(na), or_missing(nb), or_missing(nc), or_missing(nd)
end

local function seen_at(newest, id, time)
  if id ~= NONE and time > (newest[id] or -1) then newest[id] = time end
end

local function of_device(key)
  if key == '' then return pack('<ddddddddd', 0, 0, 0, 0, -1, -1, -1, -1, -1) end
  local n10, nh, nd, n30, cards, customers = 1, 1, 1, 1, {}, {}
  local nu = first(customers, customer)
  seen_at(cards, card, now)
  local rows = rows_of(key, pack('<dc8c8', now, card, customer), 24, 2592000)
  for at = 1, #rows, 24 do
    local time, c, u = read('<dc8c8', rows, at)
    if time > d30 and time <= now then
      n30, nu = n30 + 1, nu + first(customers, u)
      seen_at(cards, c, time)
      if time > d1 then
        nd = nd + 1
        if time > h1 then
          nh = nh + 1
          if time > m10 then n10 = n10 + 1 end
        end
      end
    end
  end
  local c10, ch, cd, c30 = distinct(cards, m10, h1, d1, d30)
  return pack('<ddddddddd', n10, nh, nd, n30, c10, ch, cd, c30, or_missing(nu))
end

local function of_ip(key)
  if key == '' then return pack('<dddddddd', 0, 0, 0, 0, 0, -1, -1, -1) end
  local n1, n10, nh, nd, sd, cards = 1, 1, 1, 1, amount, {}
  seen_at(cards, card, now)
  local rows = rows_of(key, pack('<ddc8', now, amount, card), 24, 86400)
  for at = 1, #rows, 24 do
    local time, cents, c = read('<ddc8', rows, at)
    if time > d1 and time <= now then
      nd, sd = nd + 1, sd + cents
      seen_at(cards, c, time)
      if time > h1 then
        nh = nh + 1
        if time > m10 then
          n10 = n10 + 1
          if time > m1 then n1 = n1 + 1 end
        end
      end
    end
  end
  local c10, ch, cd = distinct(cards, m10, h1, d1, d1)
  return pack('<dddddddd', n1, n10, nh, nd, sd, c10, ch, cd)
end

local function of_email(key)
  if key == '' then return pack('<dddd', 0, 0, 0, -1) end
  local nh, nd, n30, cards = 1, 1, 1, {}
  local nc = first(cards, card)
  local rows = rows_of(key, pack('<dc8', now, card), 16, 2592000)
  for at = 1, #rows, 16 do
    local time, c = read('<dc8', rows, at)
    if time > d30 and time <= now then
      n30 = n30 + 1
      if time > d7 then
        nc = nc + first(cards, c)
        if time > d1 then
          nd = nd + 1
          if time > h1 then nh = nh + 1 end
        end
      end
    end
  end
  return pack('<dddd', nh, nd, n30, or_missing(nc))
end

local reviews = call('ZCOUNT', KEYS[1], string.format('(%.0f', d1), string.format('%.0f', now))
return of_card(KEYS[2]) .. of_customer(KEYS[3]) .. of_device(KEYS[4]) .. of_ip(KEYS[5]) .. of_email(KEYS[6])
  .. pack('<d', reviews)
