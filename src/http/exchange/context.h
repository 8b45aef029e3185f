// The state of one request, from its arrival to its end.

#pragma once

#include "nginx/nginx.h"

#include "core/decision.h"
#include "core/grpc.h"
#include "core/hops.h"
#include "core/problem.h"
#include "core/unsent.h"
#include "http/config/config.h"

namespace idempotency {

class Exchange;
class Observation;

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
    quota,
};

// How the request got here.  docs/architecture.md has the transitions.
enum class Stage {
    inactive,            // the module does nothing (any more) with this request
    refused,             // something else refused it: it is on the way to an error page
    problem,             // the module refused it: it is on the way to an error page
    before_try_files,    // waits for `try_files`, which may redirect to another location
    reading_body,        // reads the body and computes its digest
    claiming,            // waits for the store's reply to the claim
    claim_replied,       // the reply is in the exchange
    redirecting_replay,  // passes the internal redirects of the response that is replayed
    waiting_to_claim,    // another request has the key: waits, then claims again
    executing,           // holds the claim; the upstream has not sent a response yet
    capturing,           // the response arrives and is held
    streaming,           // the response is delivered as it arrives, and recorded
    settling,  // the whole response, or the end of a stream, is held until the claim is settled
    passing_through,  // the claim is settled: the response is sent, or is being passed through
};

// The functions with which an upstream module reads a response body, while this
// module has replaced them by its own (malformed_body.cpp).
struct UpstreamBodyReader {
    ngx_int_t (*init)(void *data);
    ngx_event_pipe_input_filter_pt buffered;
    ngx_int_t (*unbuffered)(void *data, ssize_t bytes);
};

// What the response of the application means.  It is made out once, when the head of the
// response is there or the exchange has failed, and holds whatever nginx does afterwards.
struct Meaning {
    bool known;
    Origin origin;
    bool retriable;   // the application has not acted on the request
    unsigned status;  // of the application; 0 if there is none
};

// A replay that passes the internal redirects of its response.
struct Replay {
    Record record;
    HopCursor cursor;
    Hop hop;          // the last one
    bool begins_hop;  // this module redirects the request
    bool is_at_hop;   // nothing else has redirected the request since
};

// How far a body that another module has read is digested.
struct BodyProgress {
    ngx_chain_t *link;
    off_t offset;  // in its buffer
    u_char *buffer;
};

// Lives in the request's pool.  `ngx_http_internal_redirect` and similar functions
// clear r->ctx; `find_context` restores it.
struct Context {
    ngx_http_request_t *request;
    LocationConfig *conf;      // of the location in which the key was claimed
    Scope scope;               // of the key; its values live as long as the request
    Exchange *exchange;        // null if the request is not covered; one reference is held
    Observation *observation;  // with `observe`, if the request would be covered; else null
    bool observes_body;        // its body is digested while nginx reads it
    void (*on_body_digested)(Context &context);
    Stage stage;
    Status status;
    const char *problem_code;  // of the module's own response, or null
    Millis age;                // of the response that is replayed
    Millis since;              // when that response was kept, by the store's clock
    BodyProgress body_progress;
    Sha256 *body_digest;  // of the request body; null if the fingerprint omits it
    Meaning meaning;
    Word accel_directives;                // in the X-Accel-Idempotency headers of the response
    ngx_http_upstream_t *noted_upstream;  // `meaning` is that of its exchange

    // internal redirects
    bool redirected;          // r->ctx was cleared, and `on_redirect` has not seen it yet
    bool follows_error_page;  // nginx follows an `error_page`, and has not redirected yet
    bool page_is_named;       // this page is a named location in the configuration
    bool passes_status;       // with `=`: the status of the page is that of the response
    bool is_in_checks;        // in a location whose access checks are not over yet
    bool barred;              // no content handler may get the request with its body
    bool is_get;              // an internal redirect has made it a GET
    bool became_get;          // an `error_page` with a URI has made it a GET without body
    ngx_uint_t error_status;  // for which nginx follows or has followed an `error_page`
    Problem problem;          // in stage `problem`
    bool awaits_error_page;   // in stage `problem`, until nginx follows the error page
    unsigned uri_changes;     // r->uri_changes when the content phase began: nginx counts down
    HopWriter *hops;          // since the claim; null if there are none
    bool hops_lost;           // they can't be recorded
    Replay *replay;           // in stage `redirecting_replay`

    ngx_str_t grpc_timeout;  // the header of a gRPC request, which is not sent to the application

    // the response
    ResponseFacts facts;   // complete at the end of the response
    Outcome outcome;       // how the claim is settled; decided by `facts`
    Millis ttl;            // of the kept response
    bool from_upstream;    // an upstream was running when its header arrived
    bool outcome_unknown;  // it is nginx's own: the request was sent and got no whole response
    bool incomplete;       // its body ended early, or Content-Length is wrong
    UpstreamBodyReader upstream_body_reader;
    GrpcKind grpc_kind;            // of the response
    GrpcMessages grpc_messages;    // counted in a gRPC body
    bool header_sent;              // to the client, while the response is a stream
    ngx_http_headers_out_t *head;  // of a stream: r->headers_out before the header was sent
    bool held_part_sent;           // the part of the body that was held is sent and freed
    bool stream_reset;         // the client reset the HTTP/2 stream before the response was sent
    bool client_disconnected;  // while the response was a stream, or passed through
    bool response_ended;       // the last buffer has been passed through, or is held
    bool response_replaced;    // by the error page of a later filter, such as image_filter
    bool waits_for_store;      // the rest is held until the claim is settled
    ngx_chain_t *held;         // this rest, of an error page; otherwise it is the last buffer
    ngx_chain_t *unsent;       // buffers that the next filters have not sent yet
    UnsentResponse unsent_memory;  // of the response, until it is sent

    // the content handler
    ngx_http_handler_pt content_handler;  // the location's, while the guard replaces it
    bool content_handler_called;
    ngx_http_upstream_t *previous_upstream;  // r->upstream when the location was entered
    bool client_body_incomplete;  // the exchange ended because the client did not send its body
    bool upstream_not_created;    // it failed before it created the upstream

    ngx_event_t timer;  // of a wait for the key, of gRPC trailers, or of a stream without client
    bool wait_started;  // `conflict wait`: the request has begun to wait for the key
    bool is_waiting;    // counted as a request that waits for its key
    ngx_msec_t wait_deadline;
    ngx_msec_t claim_delay;  // until the next claim, in milliseconds

    std::uint64_t quota_value;  // QuotaTable::hash of the value of `idempotency_quota`; 0: none
    Millis quota_wait;          // until the next new key is allowed
    bool quota_taken;           // the claim that the store was asked for is counted

    std::uint64_t store_call_start;  // monotonic_micros()
    std::uint64_t store_time;        // sum of all waits for the store, in microseconds
};

// The context of a request, or null.  For a main request it is found after an internal
// redirect too.
Context *find_context(ngx_http_request_t *r);

// Whether the claim is held, and no byte of the response has been sent.
inline bool awaits_response(const Context &context)
{
    return context.stage == Stage::executing || context.stage == Stage::capturing;
}

// Whether the claim is held and is not being settled yet.
inline bool has_open_claim(const Context &context)
{
    return awaits_response(context) || context.stage == Stage::streaming;
}

// The only way from `executing` to a later stage: a response begins, is settled and is sent
// once.  Stops the timer.  False, with an alert in the log, if the response has passed this
// stage already: the caller must then do nothing.
bool advance(Context &context, Stage next);

// Creates the context, in stage `inactive`.  Null if there is no memory.
Context *create_context(ngx_http_request_t *r, LocationConfig *conf, Status status);

// Suspends the phases until `resume` is called, and returns what a phase handler
// returns.  If the client closes the connection meanwhile, nginx ends the request.
ngx_int_t suspend(ngx_http_request_t *r);
void resume(ngx_http_request_t *r);

// For the metrics: whether the request waits for its key.
void set_waiting(Context &context, bool is_waiting);

// The context's timer: `handler` gets an event whose `data` is the context.  The end
// of the request stops it.  `delay` is in milliseconds.
void start_timer(Context &context, ngx_event_handler_pt handler, ngx_msec_t delay);
void stop_timer(Context &context);

}  // namespace idempotency
