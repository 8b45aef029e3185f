-- Idempotency in Lua, as a user of the Lua module would write it: the claim and the look at an earlier answer are one
-- `SET NX GET`, the answer is gathered by the filters and kept by a timer after the request, since neither a filter nor
-- the log phase may talk to Redis.

local found, redis = pcall(require, "resty.redis")
if not found then
    redis = require "nginx.redis"
end

local LEASE = 30 * 1000
local DAY = 24 * 3600 * 1000

-- keeps the answer only where the claim is still ours
local KEEP = [[
if redis.call("GET", KEYS[1]) == ARGV[1] then
    return redis.call("SET", KEYS[1], ARGV[2], "PX", ARGV[3])
end
return false
]]

local M = {}
local port

function M.setup(redis_port)
    port = redis_port
end

local function with_redis(command, ...)
    local connection = redis:new()
    connection:set_timeout(1000)

    local answer, err = connection:connect("127.0.0.1", port)
    if not answer then
        return nil, err
    end

    answer, err = connection[command](connection, ...)
    if answer ~= nil then
        connection:set_keepalive(60000, 256)
    end
    return answer, err
end

local function refuse(status)
    ngx.status = status
    ngx.say("{}")
    return ngx.exit(status)
end

-- A record is "running FINGERPRINT TOKEN" or "kept FINGERPRINT STATUS\nTYPE\nLOCATION\nBODY".
local function replay(record, fingerprint)
    local state, earlier, rest = record:match("^(%l+) (%x+) (.*)$")

    if earlier ~= fingerprint then
        return refuse(422)
    end
    if state ~= "kept" then
        return refuse(409)
    end

    local status, content_type, target, body = rest:match("^(%d+)\n([^\n]*)\n([^\n]*)\n(.*)$")

    ngx.status = tonumber(status)
    ngx.header["Content-Type"] = content_type
    ngx.header["Content-Length"] = #body
    if target ~= "" then
        ngx.header["Location"] = target
    end
    ngx.header["Idempotent-Replayed"] = "true"
    ngx.print(body)
    return ngx.exit(ngx.HTTP_OK)
end

function M.claim()
    local var = ngx.var
    local name = var.http_idempotency_key

    if not name then
        return
    end

    ngx.req.read_body()

    local fingerprint = ngx.md5(var.request_method .. var.request_uri .. "\n" .. (ngx.req.get_body_data() or ""))
    local key = "bench:lua:" .. ngx.md5((var.http_x_api_key or "") .. "\n" .. name)
    local mine = "running " .. fingerprint .. " " .. var.request_id
    local earlier, err = with_redis("set", key, mine, "NX", "GET", "PX", LEASE)

    if earlier == nil then
        ngx.log(ngx.ERR, "redis: ", err)
        return refuse(503)
    end
    if earlier ~= ngx.null then
        return replay(earlier, fingerprint)
    end

    ngx.ctx.claim = {key = key, mine = mine, fingerprint = fingerprint, pieces = {}}
end

function M.see_header()
    local claim = ngx.ctx.claim

    if claim then
        claim.head = table.concat({ngx.status, ngx.header["Content-Type"] or "", ngx.header["Location"] or ""}, "\n")
    end
end

function M.see_body()
    local claim = ngx.ctx.claim

    if claim then
        table.insert(claim.pieces, ngx.arg[1])
        claim.whole = claim.whole or ngx.arg[2]
    end
end

local function keep_later(_, claim)
    local record = "kept " .. claim.fingerprint .. " " .. claim.head .. "\n" .. table.concat(claim.pieces)
    local answer, err = with_redis("eval", KEEP, 1, claim.key, claim.mine, record, DAY)

    if answer == nil then
        ngx.log(ngx.ERR, "redis: ", err)
    end
end

function M.keep()
    local claim = ngx.ctx.claim

    if claim and claim.whole then
        ngx.timer.at(0, keep_later, claim)
    end
end

return M
