-- For wrk, with one connection for each thread: ends by itself after so many seconds, with no request outstanding.
local last

function init(args)
    last = os.time() + tonumber(args[1])
end

local pages = { "/index.html", "/missing", "/large.bin", "/empty" }
local asked = 0

function request()
    asked = asked + 1
    return wrk.format("GET", pages[asked % #pages + 1])
end

function response()
    if os.time() >= last then
        wrk.thread:stop()
    end
end
