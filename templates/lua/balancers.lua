-- nginx's own balancers once more, since those do not run behind balancer_by_lua: the same choices, by the rules of
-- ngx_http_upstream_round_robin.c, _least_conn, _ip_hash, _hash (consistent) and _random. All state is a worker's own,
-- as nginx's is without `zone`.
--
-- The caller begins a state for each request and picks with it. After each pick it says once how that server's try
-- ended, `failed` or `freed`, and after the last one `done`. Until then the server counts one connection more.
local bit = require "bit"
local band, bnot, bxor, rshift = bit.band, bit.bnot, bit.bxor, bit.rshift

local TRIES_BY_KEY = 20
local POINTS = 160
local BIG = 2147483647
local TWO_TO_32 = 4294967296
-- More than an upstream has servers; a hash and a place together are exact in a number of Lua's.
local PLACES = 1048576
local NO_ADDRESS = "\0\0\0"

local M = {}
local Group = {}
Group.__index = Group

local last_id = 0
local random_state

-- A number from 0 to `below` - 1, another sequence in each worker.
local function random(below)
    random_state = random_state or math.floor(ngx.worker.pid() * 7919 + ngx.now() * 1000) % (BIG - 1) + 1
    random_state = random_state * 16807 % BIG
    return random_state % below
end

local function key_of(peer)
    return peer.host .. ":" .. peer.port .. (peer.backup and " backup" or "")
end

local function begin_peer(peer)
    last_id = last_id + 1
    peer.id, peer.conns, peer.fails, peer.accessed, peer.checked = last_id, 0, 0, 0, 0
    peer.current_weight, peer.effective_weight = 0, peer.weight
    return peer
end

local function rests(peer, now)
    return peer.max_fails > 0 and peer.fails >= peer.max_fails and now - peer.checked <= peer.fail_timeout
end

local function can_take(state, peer, now)
    return state.tried[peer.id] ~= state.round
        and not rests(peer, now)
        and (peer.max_conns == 0 or peer.conns < peer.max_conns)
end

local function add_turn(peer)
    local weight = peer.effective_weight
    peer.current_weight = peer.current_weight + weight
    if weight < peer.weight then
        peer.effective_weight = weight + 1
    end
    return weight
end

-- Smooth weighted round robin over those that can take a request; nil where none can.
local function by_turn(state, peers, now)
    local best, total = nil, 0
    for place = 1, #peers do
        local peer = peers[place]
        if can_take(state, peer, now) then
            total = total + add_turn(peer)
            if not best or peer.current_weight > best.current_weight then
                best = peer
            end
        end
    end
    if best then
        best.current_weight = best.current_weight - total
    end
    return best
end

-- The server with the fewest connections for its weight; among equals, the one whose turn it is.
local function by_connections(state, peers, now)
    local best, first, many = nil, 0, false
    for place = 1, #peers do
        local peer = peers[place]
        if can_take(state, peer, now) then
            local mine, its = 0, 0
            if best then
                mine, its = peer.conns * best.weight, best.conns * peer.weight
            end
            if not best or mine < its then
                best, first, many = peer, place, false
            elseif mine == its then
                many = true
            end
        end
    end
    if not many then
        return best
    end
    local total = 0
    for place = first, #peers do
        local peer = peers[place]
        if can_take(state, peer, now) and peer.conns * best.weight == best.conns * peer.weight then
            total = total + add_turn(peer)
            if peer.current_weight > best.current_weight then
                best = peer
            end
        end
    end
    best.current_weight = best.current_weight - total
    return best
end

-- The server that a number below the sum of weights falls to. Those that stayed at a push may be lighter by now than
-- the sum of a request that was begun before it.
local function by_weight(peers, rest)
    local place = 1
    while place < #peers and rest >= peers[place].weight do
        rest, place = rest - peers[place].weight, place + 1
    end
    return peers[place]
end

-- The server that a draw falls to; another draw where that one cannot take the request, until nginx gives up too.
local function by_draw(group, state, now, draw)
    while state.rounds <= TRIES_BY_KEY do
        local peer = by_weight(group.primaries, draw(group, state))
        if can_take(state, peer, now) then
            return peer
        end
        state.rounds = state.rounds + 1
    end
    return nil
end

local function draw_by_address(group, state)
    local address, hash = state.key, state.hash
    local length = #address == 4 and 3 or 16
    if #address ~= 4 and #address ~= 16 then
        -- A client by a unix socket has none.
        address, length = NO_ADDRESS, 3
    end
    for place = 1, length do
        hash = (hash * 113 + address:byte(place)) % 6271
    end
    state.hash = hash
    return hash % group.weight
end

local function draw_by_chance(group)
    return random(group.weight)
end

local function by_address(group, state, now)
    return by_draw(group, state, now, draw_by_address)
end

local function by_chance(group, state, now)
    return by_draw(group, state, now, draw_by_chance)
end

-- The CRC-32 of each byte, as zlib and nginx have it.
local crc_of_byte = {}
for byte = 0, 255 do
    local crc = byte
    for _ = 1, 8 do
        crc = bxor(rshift(crc, 1), band(-band(crc, 1), 0xEDB88320))
    end
    crc_of_byte[byte] = crc
end

-- The CRC-32 of a text and the four bytes of a number behind it, the lowest first; `text` is the text's own.
local function crc_behind(text, number)
    local crc = bxor(bnot(text), number)
    for _ = 1, 4 do
        crc = bxor(rshift(crc, 8), crc_of_byte[band(crc, 255)])
    end
    return bnot(crc)
end

-- Each server's points on the circle, in order, and whose they are; of equal ones the first server's.
local function points_of(peers)
    local sorted, points = {}, { count = 0, hashes = {}, peers = {} }
    for place = 1, #peers do
        local peer = peers[place]
        local text, before = ngx.crc32_long(peer.host .. "\0" .. peer.port), 0
        for _ = 1, peer.weight * POINTS do
            before = crc_behind(text, before)
            -- One number of both: to sort those takes a tenth of the time.
            sorted[#sorted + 1] = before % TWO_TO_32 * PLACES + place
        end
    end
    table.sort(sorted)
    for _, both in ipairs(sorted) do
        local place = both % PLACES
        local hash = (both - place) / PLACES
        if hash ~= points.hashes[points.count] then
            points.count = points.count + 1
            points.hashes[points.count], points.peers[points.count] = hash, peers[place]
        end
    end
    return points
end

-- The place, from 0, of the first point that is not before a key's.
local function place_of(points, key)
    local hash, low, high = ngx.crc32_long(key), 1, points.count + 1
    while low < high do
        local middle = math.floor((low + high) / 2)
        if points.hashes[middle] < hash then
            low = middle + 1
        else
            high = middle
        end
    end
    return low - 1
end

local function by_key(group, state, now)
    group.points = group.points or points_of(group.primaries)
    local points = group.points
    state.hash = state.hash or place_of(points, state.key)
    while state.rounds <= TRIES_BY_KEY do
        local peer = points.peers[state.hash % points.count + 1]
        if can_take(state, peer, now) then
            -- The best of one: its turn comes and goes.
            local before = peer.current_weight
            add_turn(peer)
            peer.current_weight = before
            return peer
        end
        state.hash, state.rounds = state.hash + 1, state.rounds + 1
    end
    return nil
end

local BY_METHOD = { ip_hash = by_address, hash = by_key, random = by_chance }

-- By the method, and by turns where that gives up: as nginx does after 20 tries, and without a key.
local function choose(group, state, now)
    local method = BY_METHOD[group.method]
    if method and state.rounds <= TRIES_BY_KEY and (group.method ~= "hash" or state.key ~= "") then
        local peer = method(group, state, now)
        if peer then
            return peer
        end
    end
    return group.by(state, group.primaries, now)
end

-- A server to ask next, none that was asked before; nil where nobody is left.
function Group:pick(state, now)
    local peer
    if self.single then
        peer = self.single
        if peer.max_conns > 0 and peer.conns >= peer.max_conns then
            return nil
        end
    else
        if not state.behind then
            peer = choose(self, state, now)
        end
        if not peer and #self.backups > 0 then
            state.behind = true
            peer = self.by(state, self.backups, now)
        end
        if not peer then
            return nil
        end
        state.tried[peer.id] = state.round
        if now - peer.checked > peer.fail_timeout then
            peer.checked = now
        end
    end
    peer.conns = peer.conns + 1
    state.peer = peer
    return peer
end

-- The server picked last failed.
function Group:failed(state, now)
    local peer = state.peer
    if not peer then
        return
    end
    state.peer = nil
    peer.conns = peer.conns - 1
    if self.single then
        return
    end
    peer.fails, peer.accessed, peer.checked = peer.fails + 1, now, now
    if peer.max_fails > 0 then
        peer.effective_weight = math.max(0, peer.effective_weight - math.floor(peer.weight / peer.max_fails))
    end
end

-- The server picked last did not fail.
function Group:freed(state)
    local peer = state.peer
    if not peer then
        return
    end
    state.peer = nil
    peer.conns = peer.conns - 1
    if not self.single and peer.accessed < peer.checked then
        peer.fails = 0
    end
end

-- Begin a request; `key` is what `hash` is over, or for ip_hash the client's address in binary.
function Group:begin(key)
    local free = self.free
    local state = self.pool[free]
    if state then
        self.free = free - 1
    else
        state = { tried = {}, round = 0 }
    end
    state.round, state.rounds, state.key = state.round + 1, 0, key
    state.hash, state.behind, state.peer = self.method == "ip_hash" and 89 or nil, false, nil
    return state
end

-- The request is over; its state may be another one's.
function Group:done(state)
    self.free = self.free + 1
    self.pool[self.free] = state
end

local function group_of(method, peers)
    local group = { method = method, primaries = {}, backups = {}, weight = 0, pool = {}, free = 0, tries = #peers }
    for place = 1, #peers do
        local peer = peers[place]
        local side = peer.backup and group.backups or group.primaries
        side[#side + 1] = peer
        group.weight = group.weight + (peer.backup and 0 or peer.weight)
    end
    group.single = #peers == 1 and peers[1] or nil
    group.by = method == "least_conn" and by_connections or by_turn
    return setmetatable(group, Group)
end

-- Servers of an upstream: {host, port, weight, max_fails, fail_timeout, max_conns, backup} each.
function M.new(method, peers)
    for place = 1, #peers do
        begin_peer(peers[place])
    end
    return group_of(method, peers)
end

-- The same for other servers or another method. Who was there before keeps its connections and failures; requests that
-- are on their way end in the group that they were begun in.
function M.carry(group, method, peers)
    local known = {}
    for _, side in ipairs({ group.primaries, group.backups }) do
        for place = 1, #side do
            known[key_of(side[place])] = side[place]
        end
    end
    for place = 1, #peers do
        local peer = peers[place]
        local kept = known[key_of(peer)]
        if kept then
            if kept.weight ~= peer.weight then
                kept.weight, kept.effective_weight = peer.weight, peer.weight
            end
            kept.max_fails, kept.fail_timeout, kept.max_conns = peer.max_fails, peer.fail_timeout, peer.max_conns
            peers[place] = kept
        else
            begin_peer(peer)
        end
    end
    return group_of(method, peers)
end

return M
