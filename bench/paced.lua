-- For wrk: POSTs to the path of the URL, PAUSE milliseconds after each response. KEY=name sends that key each time, KEY=name- a new one.

local key = assert(os.getenv("KEY"))
local pause = tonumber(os.getenv("PAUSE"))
local is_new = key:sub(-1) == "-"
local count = 0

wrk.method = "POST"
wrk.body = '{"assetId":"model-123","note":""}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-API-Key"] = "bench"
wrk.headers["Idempotency-Key"] = key

function delay()
    return pause
end

function request()
    if is_new then
        count = count + 1
        wrk.headers["Idempotency-Key"] = key .. count
    end
    return wrk.format()
end
