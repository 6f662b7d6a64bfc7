-- Which servers an upstream has, and how a service's requests are split: as the configuration says, or as was pushed
-- since. `balancers` stands before this, in one block with it.
--
-- What is pushed lies in a file, which only the sidecar can write; a request merely says that it is there. The worker
-- that is asked decodes all of it, or takes none of it, and puts each line into the shared dictionary; the new stamp
-- goes last. Every worker compares that stamp at each request. Each time that nginx reads its configuration is counted,
-- and what was pushed is kept below that number: so it ends with the workers that it was pushed to.
local ffi = require "ffi"
local balancer = require "ngx.balancer"
local get_request = require("resty.core.base").get_request
local set_current_peer, set_more_tries = balancer.set_current_peer, balancer.set_more_tries
local C, uintptr = ffi.C, ffi.typeof "uintptr_t"

ffi.cdef "uint32_t ngx_murmur_hash2(const char *data, size_t len);"

local BUSY = -3
local LONGEST = 16 * 1024 * 1024
local METHODS = { round_robin = true, least_conn = true, ip_hash = true, hash = true, random = true }
local WHOLE = 10000

local M = {}
local dictionary = ngx.shared.proxygen
local upstreams = {}
local splits = {}
local states = {}
local own = "read " .. (dictionary:incr("reads", 1, 0) or 0)

-- A number that a line writes, if it is one within bounds.
local function number(text, least, most)
    local found = #text <= 7 and tonumber(text) or nil
    return found and found >= least and found <= most and found or nil
end

local function is_address(text)
    return text:find("^%d+%.%d+%.%d+%.%d+$") or text:find("^%[[%x:.]+%]$")
end

-- ADDRESS:PORT/WEIGHT/MAX_FAILS/FAIL_TIMEOUT/MAX_CONNS/p, or b for a backup.
local function decode_peer(text)
    local host, port, weight, fails, rest, conns, kind =
        text:match("^(%S+):(%d+)/(%d+)/(%d+)/(%d+)/(%d+)/([pb])$")
    if not host or not is_address(host) then
        return nil
    end
    local peer = {
        host = host,
        port = number(port, 1, 65535),
        weight = number(weight, 1, 1000000),
        max_fails = number(fails, 0, 1000000),
        fail_timeout = number(rest, 0, 1000000),
        max_conns = number(conns, 0, 1000000),
        backup = kind == "b",
    }
    if peer.port and peer.weight and peer.max_fails and peer.fail_timeout and peer.max_conns then
        return peer
    end
    return nil
end

-- METHOD KEY PEER …; KEY is the variable that `hash` is over, and - for the other methods.
local function decode_upstream(text)
    local method, key, rest = text:match("^([%l_]+) (%S+)( .+)$")
    if not method or not METHODS[method] or not (key == "-" or key:find("^[%w_]+$")) then
        return nil
    end
    if (method == "hash") == (key == "-") then
        return nil
    end
    local peers, primaries, length = {}, 0, 0
    for word in rest:gmatch(" (%S+)") do
        local peer = decode_peer(word)
        if not peer then
            return nil
        end
        length = length + 1 + #word
        primaries = primaries + (peer.backup and 0 or 1)
        peers[#peers + 1] = peer
    end
    if primaries == 0 or length ~= #rest then
        return nil
    end
    return { method = method, key = key, peers = peers }
end

-- SHARE:UPSTREAM …, shares in basis points, in the order of the hash's range. They end as nginx's split_clients ends
-- them; who is behind the last one is the last one's.
local function decode_split(text)
    local pieces, sum, bound, length = {}, 0, 0, 0
    for word in text:gmatch("%S+") do
        local share, upstream = word:match("^(%d+):([%w_]+)$")
        share = share and number(share, 0, WHOLE)
        if not share then
            return nil
        end
        sum = sum + share
        bound = bound + math.floor(share * 4294967295 / WHOLE)
        length = length + #word + (#pieces > 0 and 1 or 0)
        pieces[#pieces + 1] = { bound = bound, upstream = upstream }
    end
    if sum ~= WHOLE or length ~= #text then
        return nil
    end
    return pieces
end

-- What was pushed for a name since it was looked at last, decoded; nil where that is nothing new. A dictionary that
-- was lost tells nothing: what was known stays.
local function news(known, kind, name, decode)
    local version = dictionary:get(own)
    if version == known.version then
        return nil
    end
    known.version = version
    local text = version and dictionary:get(own .. kind .. name)
    if not text or text == known.text then
        return nil
    end
    known.text = text
    return decode(text)
end

local function pointer()
    return tonumber(ffi.cast(uintptr, get_request()))
end

-- Whether nginx gave the last server up before it answered. A status of 502 or 504 may also be its own answer, and
-- then the time of that is known.
local function has_failed()
    local statuses = ngx.var.upstream_status
    if not statuses or statuses == "200" then
        return false
    end
    local status = statuses:sub(-3)
    return (status == "502" or status == "504") and (ngx.var.upstream_header_time or ""):sub(-1) == "-"
end

-- End a request's way through an upstream, whose last server failed or did not.
local function finish(state, failed)
    if failed then
        state.group:failed(state, ngx.time())
    else
        state.group:freed(state)
    end
    state.group:done(state)
end

-- Whether the last server failed of a way that ended without its log: an error page led to another one.
local function had_failed()
    local status = (ngx.var.upstream_status or ""):match("(%d+)[^%d]+$")
    return status == "502" or status == "504"
end

-- A request's key for the method of its upstream.
local function key_of(upstream)
    if upstream.method == "hash" then
        return ngx.var[upstream.key] or ""
    end
    return upstream.method == "ip_hash" and ngx.var.binary_remote_addr or nil
end

local function update(upstream, decoded)
    upstream.method, upstream.key = decoded.method, decoded.key
    if upstream.group then
        upstream.group = balancers.carry(upstream.group, decoded.method, decoded.peers)
    else
        upstream.group = balancers.new(decoded.method, decoded.peers)
    end
end

-- Have the configuration's own servers of an upstream known.
function M.found(name, text)
    local decoded = assert(decode_upstream(text), name)
    local upstream = { text = text }
    update(upstream, decoded)
    upstreams[name] = upstream
    return M.balance(name)
end

-- Choose a server for a request of an upstream; false where nothing is known of it yet.
function M.balance(name)
    local upstream = upstreams[name]
    if not upstream then
        return false
    end
    local decoded = news(upstream, " u ", name, decode_upstream)
    if decoded then
        update(upstream, decoded)
    end
    local now, request = ngx.time(), pointer()
    local state = states[request]
    local ending = state and balancer.get_last_failure()
    if ending == "failed" then
        state.group:failed(state, now)
    elseif ending then
        -- A 403 or 404 that leads to the next server is no failure.
        state.group:freed(state)
    else
        if state then
            finish(state, had_failed())
        end
        local group = upstream.group
        state = group:begin(key_of(upstream))
        state.group = group
        states[request] = state
        -- nginx counts one for the only server of the configuration that is not down for it.
        if group.tries > 1 then
            set_more_tries(group.tries - 1)
        end
    end
    local peer = state.group:pick(state, now)
    if not peer then
        states[request] = nil
        state.group:done(state)
        return ngx.exit(BUSY) or true
    end
    if ngx.is_subrequest then
        -- Its end is not logged.
        state.group:freed(state)
    end
    assert(set_current_peer(peer.host, peer.port))
    return true
end

-- End what `balance` began: in the log phase of every request that may have been balanced.
function M.log()
    local request = pointer()
    local state = states[request]
    if not state then
        return
    end
    states[request] = nil
    finish(state, has_failed())
end

-- The configuration's own shares of a split.
local function found_split(name)
    local text = ngx.var[name .. "_split"]
    splits[name] = { text = text, pieces = assert(decode_split(text), name) }
    return splits[name]
end

-- The upstream that a key falls to, by nginx's own hash.
function M.share(name, key)
    local split = splits[name] or found_split(name)
    split.pieces = news(split, " s ", name, decode_split) or split.pieces
    local hash, pieces = C.ngx_murmur_hash2(key, #key), split.pieces
    for place = 1, #pieces - 1 do
        if hash < pieces[place].bound then
            return pieces[place].upstream
        end
    end
    return pieces[#pieces].upstream
end

-- The stamp of what is served: of the configuration, or of what was pushed since.
local function served()
    return dictionary:get(own) or ngx.var.proxygen_base
end

function M.stamp()
    ngx.print(served())
end

local function answer(status, text)
    ngx.status = status
    ngx.print(text)
    return ngx.exit(status)
end

-- A document's three first lines.
local function read_head(file)
    local version, from, to = file:read("*l", "*l", "*l")
    return {
        is_known = version == "proxygen 1",
        from = (from or ""):match("^from (%d+ %x+)$"),
        to = (to or ""):match("^to (%d+ %x+)$"),
    }
end

-- The entries of what follows, or nil and why they are none.
local function decode_entries(text)
    local body, count = ("\n" .. text):match("^(.*\n)end (%d+)\n$")
    if not body then
        return nil, "no end"
    end
    local entries = {}
    for line in body:sub(2):gmatch("([^\n]*)\n") do
        local kind, name, entry = line:match("^([us]) ([%w_]+) (.+)$")
        local decode = kind == "s" and decode_split or decode_upstream
        if not kind or not decode(entry) then
            return nil, "cannot decode line " .. #entries + 4
        end
        entries[#entries + 1] = { key = " " .. kind .. " " .. name, text = entry }
    end
    if tonumber(count) ~= #entries then
        return nil, "another number of lines"
    end
    return entries
end

-- Forget what was pushed to workers of another configuration, but not how often one was read.
local function make_room()
    local reads = dictionary:get("reads")
    dictionary:flush_all()
    dictionary:flush_expired()
    dictionary:set("reads", reads)
    dictionary:set("owner", own)
end

-- Put back what was stored before the last of so many values: one that finds no room may have lost its old text.
local function undo(before, last)
    for place = 1, last do
        dictionary:set(before[place].key, before[place].text)
    end
end

-- Store all entries and then the stamp, or nothing.
local function store(entries, stamp)
    if dictionary:get("owner") ~= own then
        make_room()
    end
    local before = {}
    for place = 1, #entries + 1 do
        local entry = entries[place] or { key = "", text = stamp }
        local key = own .. entry.key
        before[place] = { key = key, text = dictionary:get(key) }
        local stored, reason = dictionary:safe_set(key, entry.text)
        if not stored then
            undo(before, place)
            return nil, reason
        end
    end
    return true
end

-- Take what an open document says, where it follows what is served: all of it or nothing. Return a status and a text.
local function take(file)
    local head, before = read_head(file), served()
    if not (head.is_known and head.from and head.to) then
        return 400, "no document of version 1"
    end
    -- Whoever asks, what is served already is not read again.
    if before == head.to then
        return 200, before
    end
    if before ~= head.from then
        return 409, before
    end
    local text = file:read(LONGEST + 1) or ""
    if #text > LONGEST then
        return 400, "longer than " .. LONGEST .. " bytes"
    end
    local entries, reason = decode_entries(text)
    if not entries then
        return 400, reason
    end
    local stored
    stored, reason = store(entries, head.to)
    if not stored then
        return 507, reason
    end
    return 200, head.to
end

-- Take what lies in the sidecar's file.
function M.take(path)
    local file, reason = io.open(path, "rb")
    if not file then
        return answer(404, reason)
    end
    local status, text = take(file)
    file:close()
    return answer(status, text)
end

proxygen = M
