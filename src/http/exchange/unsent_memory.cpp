#include "http/exchange/unsent_memory.h"

#include "nginx/clock.h"
#include "nginx/log_limit.h"

namespace idempotency {

namespace {

const Context &context_of(const UnsentResponse &response)
{
    return *static_cast<const Context *>(response.owner);
}

std::uint64_t sent(const UnsentResponse &response)
{
    return static_cast<std::uint64_t>(context_of(response).request->connection->sent);
}

void log_end(const UnsentResponse &response)
{
    static LogLimit limit;
    LogLimit::Line line = limit.next(NGX_LOG_WARN);

    ngx_log_error(line.level, context_of(response).request->connection->log, 0,
                  "idempotency: clients do not read their responses, and these need more memory "
                  "than \"idempotency_max_unsent\": a response of %uz bytes ends, and a retry gets "
                  "a replay; limit the requests of a client with \"limit_conn\", or lower "
                  "send_timeout (%ui more such requests since the last message)",
                  response.size, line.suppressed);
}

void log_refused_replay()
{
    static LogLimit limit;
    LogLimit::Line line = limit.next(NGX_LOG_ERR);

    ngx_log_error(line.level, ngx_cycle->log, 0,
                  "idempotency: a replay is refused: clients that do not read their responses "
                  "hold all the memory of \"idempotency_max_unsent\" (%ui more such requests "
                  "since the last message)",
                  line.suppressed);
}

// Waits for the client no longer: the handler of the event ends the request as at a timeout.
void time_out(ngx_event_t &event)
{
    if (event.timer_set) {
        ngx_del_timer(&event);
    }

    event.delayed = 0;
    event.timedout = 1;
    ngx_post_event(&event, &ngx_posted_events);
}

void end(UnsentResponse &response)
{
    ngx_http_request_t *r = context_of(response).request;
    ngx_connection_t *c = r->connection;

    log_end(response);

    // all is sent, and nginx waits for the rest of the request body
    bool only_reads = r->out == nullptr && !r->buffered && !c->buffered && r->postponed == nullptr;

    time_out(only_reads ? *c->read : *c->write);
}

// What the request has in memory after all is sent, if it does not end.
bool is_all_sent(const ngx_http_request_t *r, ngx_int_t rc)
{
    return rc == NGX_OK && r->out == nullptr && !r->buffered && !r->connection->buffered
           && r->postponed == nullptr && !r->discard_body && !r->reading_body;
}

}  // namespace

UnsentMemory::UnsentMemory(std::size_t limit) : responses_(limit, {sent, end}) {}

std::size_t UnsentMemory::caller_of(const Context &context) const
{
    std::uint64_t hash = 0;

    for (std::size_t i = 0; i < context.scope.count; i++) {
        hash = hash * 31 + siphash(secret_, context.scope.parts[i]);
    }

    if (context.scope.count == 0) {
        hash = siphash(secret_, view(context.request->connection->addr_text));
    }

    return hash % UnsentResponses::kCallers;
}

bool UnsentMemory::start_loading(std::size_t size, std::size_t caller)
{
    bool is_possible = responses_.start_loading(size, caller);

    if (!is_possible) {
        log_refused_replay();
    }

    return is_possible;
}

bool UnsentMemory::make_space(const Context &context, std::size_t size)
{
    bool has_space = responses_.has_space(size)
                     || responses_.make_space(size, caller_of(context), monotonic_now());

    if (!has_space) {
        log_refused_replay();
    }

    return has_space;
}

void UnsentMemory::add_unless_sent(Context &context, ngx_int_t rc, std::size_t size)
{
    if (size == 0 || rc == NGX_ERROR || rc > NGX_OK || is_all_sent(context.request, rc)
        || context.unsent_memory.size > 0)
    {
        return;
    }

    context.unsent_memory.owner = &context;
    responses_.add(context.unsent_memory, size, caller_of(context), monotonic_now());
}

void UnsentMemory::remove(Context &context)
{
    // a request that waits for a subrequest, such as one of `mirror`, has not looked at the
    // timeout: it must not end the next request of the connection
    if (context.unsent_memory.is_ending) {
        context.request->connection->read->timedout = 0;
        context.request->connection->write->timedout = 0;
    }

    responses_.remove(context.unsent_memory);
}

}  // namespace idempotency
