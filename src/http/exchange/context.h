// What this module knows of a request while nginx has it.

#pragma once

#include "nginx/nginx.h"

#include "core/decision.h"
#include "core/grpc.h"
#include "http/config/config.h"

namespace idempotency {

class Exchange;

// `$idempotency_status`
enum class Status {
    none,
    fresh,
    replayed,
    in_progress,
    reused,
    missing,
    invalid,
    unknown,
    not_kept,
    store_error,
    bypass,
    unscoped,
};

// Where a request is on its way.
enum class Stage {
    aside,             // not, or no longer, a concern of this module
    before_try_files,  // `try_files` may lead to another location first
    reading,           // the body comes in, and is digested
    claiming,          // the store is asked for the key
    answered,          // the store has answered
    waiting,           // another request has the key; it may soon be done
    executing,         // the claim is held; the application is at work
    capturing,         // its answer comes in and is held back
    settling,          // the store is told; the answer still waits
    passing,           // the answer goes on as it comes, and is not kept
};

// What an upstream's module reads a body with.
struct BodyReader {
    ngx_int_t (*start)(void *data);
    ngx_event_pipe_input_filter_pt buffered;
    ngx_int_t (*unbuffered)(void *data, ssize_t bytes);
};

// Lives in the request's pool.  `ngx_http_internal_redirect` and its like wipe
// r->ctx; find_context gets it back.
struct Context {
    ngx_http_request_t *request;
    LocationConfig *conf;  // of the location in which the key was claimed
    Exchange *exchange;    // null where the request was not covered
    Stage stage;
    Status status;
    Millis age;              // of the result that is replayed
    Sha256 *body;            // is fed the body; null where that does not count
    Origin previous_origin;  // of upstreams that redirects have left behind,
    Word word;               // and their applications' word

    Settlement settlement;     // what becomes of the claim, by the answer's head
    Millis ttl;                // of the result
    bool from_upstream;        // the answer comes from one that is at work
    bool broken;               // the answer did not come whole
    BodyReader body_reader;    // while the answer comes in
    bool grpc;                 // the answer is one of gRPC:
    GrpcMessages messages;     // what has come of it
    bool reset;                // the client was gone before its answer was sent
    bool client_disconnected;  // while the answer went on to it
    bool response_ended;       // all of it has been passed on
    ngx_chain_t *unsent;       // buffers that were, and have not been taken yet

    ngx_http_handler_pt content_handler;  // the location's own, while it is guarded
    bool handled;                         // it has been called
    bool exchange_failed;                 // and came to no exchange, as it does else
    ngx_uint_t method;                    // nginx's bit, without what guarding adds
    void (*finalize_upstream)(ngx_http_request_t *r, ngx_int_t rc);  // that of its protocol

    ngx_event_t timer;  // of a request that waits, or of a stream
    ngx_msec_t poll_delay;
    ngx_msec_t waits_until;
    bool waits;

    ngx_msec_t store_asked_at;
    ngx_msec_t store_time;  // what all waiting for the store added up to
};

// The request's context, or null.
Context *find_context(ngx_http_request_t *r);

// Whether its claim is held for an answer that is not whole yet.
inline bool awaits_response(const Context &context)
{
    return context.stage == Stage::executing || context.stage == Stage::capturing;
}

// A new one, in stage `aside`; null where the pool has no memory.
Context *create_context(ngx_http_request_t *r, LocationConfig *conf, Status status);

// Suspends the phases until something calls `resume`.  A client that leaves
// meanwhile ends the request.
ngx_int_t park(ngx_http_request_t *r);
void resume(ngx_http_request_t *r);

// The context's timer: `handler` gets the context as `data`.  It ends with the
// request.
void start_timer(Context &context, ngx_event_handler_pt handler, ngx_msec_t delay);
void stop_timer(Context &context);

}  // namespace idempotency
