-- For wrk: POSTs a listing. MODE=replay sends PREFIX as the key each time, MODE=first a new key for each request.

local prefix = assert(os.getenv("PREFIX"))
local replay = os.getenv("MODE") == "replay"
local padding = tonumber(os.getenv("PADDING") or "0")
local count = 0
local always

wrk.method = "POST"
wrk.body = '{"assetId":"model-123","note":"' .. string.rep("n", padding) .. '"}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-API-Key"] = "bench"
wrk.headers["Idempotency-Key"] = prefix

function init()
    always = wrk.format()
end

function request()
    if replay then
        return always
    end
    count = count + 1
    wrk.headers["Idempotency-Key"] = prefix .. count
    return wrk.format()
end
