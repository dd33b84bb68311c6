-- For wrk, with one connection for each thread: requests of all kinds, and an end when none is outstanding.
-- Arguments: how many responses, how many requests at once.
local wanted, depth, seen, asked

function init(args)
    wanted = tonumber(args[1])
    depth = tonumber(args[2])
    seen = 0
    asked = 0
end

local pages = {
    { "GET", "/index.html" }, { "GET", "/missing" }, { "POST", "/form", string.rep("GET / HTTP/1.1\r\n\r\n", 50) },
    { "GET", "/moved" }, { "GET", "/chunked" }, { "GET", "/empty" }, { "GET", "/large.bin" },
}

function request()
    local text = {}
    for i = 1, depth do
        local page = pages[asked % #pages + 1]
        asked = asked + 1
        text[i] = wrk.format(page[1], page[2], nil, page[3])
    end
    return table.concat(text)
end

function response()
    seen = seen + 1
    if seen == wanted then
        wrk.thread:stop()
    end
end
