// The answer is held back until it is kept.
//
// In the slot of third-party filters (HTTP_AUX_FILTER): behind the copy filter,
// ahead of `add_header`, `sub_filter`, SSI, gzip.  So what is held is the
// application's own answer, and those are applied to each replay anew.

#include "http/steps.h"

namespace idempotency {

ngx_http_output_header_filter_pt next_header_filter;
ngx_http_output_body_filter_pt next_body_filter;

namespace {

// A bit of r->buffered that modules may use; nginx's image filter has the same.
constexpr unsigned kBuffered = 0x08;

ngx_int_t deliver(Context &context);

Context *context_of(ngx_http_request_t *r) { return r == r->main ? find_context(r) : nullptr; }

bool is_stream(ngx_http_request_t *r)
{
    constexpr std::string_view events = "text/event-stream";
    std::string_view type = view(r->headers_out.content_type).substr(0, events.size());

    return type.size() == events.size()
           && ngx_strncasecmp(r->headers_out.content_type.data,
                              reinterpret_cast<u_char *>(const_cast<char *>(events.data())),
                              events.size()) == 0;
}

bool is_too_large(ngx_http_request_t *r, const LocationConfig &conf)
{
    return r->headers_out.content_length_n > 0
           && static_cast<size_t>(r->headers_out.content_length_n) > conf.max_body;
}

AnswerFacts facts_of(const Context &context, const Word &word)
{
    ngx_http_request_t *r = context.request;
    AnswerFacts facts;

    // without an upstream it is a file, or a module's own answer
    facts.origin = r->upstream == nullptr && context.origin_so_far == Origin::not_reached
                       ? Origin::application : origin_of(context);
    facts.unknown = static_cast<UnknownPolicy>(context.conf->unknown);
    facts.retriable = context.conf->retriable->has(r->headers_out.status);
    facts.word = word;
    return facts;
}

// From here on the answer goes on as it comes.
ngx_int_t let_pass(Context &context)
{
    context.stage = Stage::passing;
    context.exchange->settle(context.settlement, context.ttl);
    return next_header_filter(context.request);
}

ngx_int_t begin_answer(Context &context)
{
    ngx_http_request_t *r = context.request;
    Word word = take_word(r, *context.conf);

    if (!word.well_formed) {
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "idempotency: \"X-Accel-Idempotency\" of the application was not understood: "
                      "\"release\", \"no-store\" or \"ttl=SECONDS\" are expected");
    }

    context.settlement = decide_settlement(facts_of(context, word));
    context.ttl = word.ttl != 0 ? word.ttl : context.conf->ttl;
    r->allow_ranges = 0;

    if (is_stream(r) || is_too_large(r, *context.conf)) {
        if (context.settlement == Settlement::keep) {
            context.settlement = Settlement::not_kept;
        }
        return let_pass(context);
    }

    context.stage = Stage::withholding;
    r->main_filter_need_in_memory = 1;
    r->filter_need_in_memory = 1;

    if (r->headers_out.content_length_n > 0) {
        context.exchange->expect(static_cast<size_t>(r->headers_out.content_length_n));
    }

    return NGX_OK;
}

// nginx's ngx_http_output_header_filter_pt
ngx_int_t on_header(ngx_http_request_t *r)
{
    Context *context = context_of(r);

    if (context == nullptr || context->stage != Stage::executing
        || r->headers_out.status < NGX_HTTP_OK)
    {
        return next_header_filter(r);
    }

    return begin_answer(*context);
}

void consume(ngx_buf_t *b)
{
    b->pos = b->last;
    b->file_pos = b->file_last;
}

// Passes on; a client that is gone does not end the exchange.
ngx_int_t pass(Context &context, ngx_chain_t *in)
{
    ngx_int_t rc = context.client_gone ? NGX_ERROR : next_body_filter(context.request, in);

    if (rc != NGX_ERROR) {
        return rc;
    }

    context.client_gone = true;
    context.request->connection->error = 1;

    for ( ; in != nullptr; in = in->next) {
        consume(in->buf);
    }

    return NGX_OK;
}

ngx_buf_t *piece_buffer(ngx_http_request_t *r, std::string_view piece)
{
    ngx_buf_t *b = allocate<ngx_buf_t>(r->pool);

    if (b != nullptr) {
        b->pos = b->start = reinterpret_cast<u_char *>(const_cast<char *>(piece.data()));
        b->last = b->end = b->pos + piece.size();
        b->memory = 1;
    }

    return b;
}

// What is held, followed by `rest`.  False where there is no memory.
bool held_chain(Context &context, ngx_chain_t *rest, ngx_chain_t *&chain)
{
    ngx_pool_t *pool = context.request->pool;
    auto *piece = static_cast<std::string_view *>(context.exchange->pieces().elts);
    ngx_chain_t **end = &chain;

    for (ngx_uint_t i = 0; i < context.exchange->pieces().nelts; i++) {
        ngx_chain_t *link = ngx_alloc_chain_link(pool);

        if (link == nullptr || (link->buf = piece_buffer(context.request, piece[i])) == nullptr) {
            return false;
        }

        *end = link;
        end = &link->next;
    }

    *end = rest;
    return true;
}

ngx_chain_t *end_of_body(ngx_http_request_t *r)
{
    ngx_chain_t *link = ngx_alloc_chain_link(r->pool);

    if (link == nullptr || (link->buf = allocate<ngx_buf_t>(r->pool)) == nullptr) {
        return nullptr;
    }

    link->buf->last_buf = 1;
    link->next = nullptr;
    return link;
}

// The header, then what is held and `rest`.
ngx_int_t send_held(Context &context, ngx_chain_t *rest)
{
    ngx_http_request_t *r = context.request;
    ngx_chain_t *chain;
    ngx_int_t rc = next_header_filter(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        for ( ; rest != nullptr; rest = rest->next) {
            consume(rest->buf);
        }

        return rc;
    }

    return held_chain(context, rest, chain) ? pass(context, chain) : NGX_ERROR;
}

// More has come than may be held, or can be.
ngx_int_t overflow(Context &context, ngx_chain_t *rest)
{
    if (context.settlement == Settlement::keep) {
        context.settlement = Settlement::not_kept;
    }

    context.stage = Stage::passing;
    context.exchange->settle(context.settlement, context.ttl);
    return send_held(context, rest);
}

void start_settling(Context &context)
{
    ngx_http_request_t *r = context.request;

    if (context.settlement == Settlement::keep
        && !write_answer(r, *context.exchange, *context.conf, context.ttl))
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "idempotency: no memory for the record of an answer: it is not kept");
        context.settlement = Settlement::not_kept;
    }

    context.stage = Stage::settling;
    context.store_asked_at = ngx_current_msec;
}

ngx_int_t settle(Context &context)
{
    start_settling(context);

    if (context.exchange->settle(context.settlement, context.ttl)) {
        return deliver(context);
    }

    // ngx_http_finalize_request leaves a request alone that has something
    // buffered, and comes back through ngx_http_writer
    context.request->buffered |= kBuffered;
    return NGX_AGAIN;
}

// An upstream that is done but has sent no end: ngx_http_upstream_finalize_request
// flushes, and that is all.
bool has_broken_off(ngx_http_request_t *r, const ngx_buf_t *b)
{
    return b->flush && !b->last_buf && r->upstream != nullptr && r->upstream->cleanup == nullptr;
}

ngx_int_t withhold(Context &context, ngx_chain_t *in)
{
    ngx_http_request_t *r = context.request;

    for (ngx_chain_t *link = in; link != nullptr; link = link->next) {
        ngx_buf_t *b = link->buf;

        if (ngx_buf_in_memory(b)) {
            std::string_view bytes{reinterpret_cast<const char *>(b->pos),
                                   static_cast<size_t>(b->last - b->pos)};

            if (bytes.size() > context.conf->max_body - context.exchange->held()) {
                return overflow(context, link);
            }

            std::size_t held = context.exchange->hold(bytes);

            if (held < bytes.size()) {
                b->pos += held;
                return overflow(context, link);
            }
        }

        bool broken = has_broken_off(r, b);
        bool last = b->last_buf;

        consume(b);

        if (broken) {
            context.broken = true;
            context.settlement = decide_without_answer(
                Origin::broken, static_cast<UnknownPolicy>(context.conf->unknown));
            return settle(context);
        }

        if (last) {
            return settle(context);
        }
    }

    return NGX_OK;
}

// The claim is settled: the client gets what was held back.
ngx_int_t deliver(Context &context)
{
    ngx_http_request_t *r = context.request;

    context.stage = Stage::passing;
    context.store_time += ngx_current_msec - context.store_asked_at;

    if (context.settlement == Settlement::unknown) {
        context.status = Status::unknown;
    }

    if (!context.exchange->settled_well()) {
        context.status = Status::store_error;
    }

    if (context.broken) {
        return send_problem(r, *context.conf, Problem::answer_incomplete);
    }

    ngx_chain_t *end = end_of_body(r);

    return end != nullptr ? send_held(context, end) : NGX_ERROR;
}

// nginx's ngx_http_output_body_filter_pt
ngx_int_t on_body(ngx_http_request_t *r, ngx_chain_t *in)
{
    Context *context = context_of(r);

    if (context == nullptr) {
        return next_body_filter(r, in);
    }

    switch (context->stage) {
    case Stage::withholding:
        return withhold(*context, in);

    case Stage::settling:
        for ( ; in != nullptr; in = in->next) {
            consume(in->buf);
        }
        return NGX_AGAIN;

    case Stage::passing:
        return pass(*context, in);

    default:
        return next_body_filter(r, in);
    }
}

}  // namespace

void install_capture()
{
    next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = on_header;
    next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = on_body;
}

void on_settled(Context &context)
{
    ngx_http_request_t *r = context.request;
    ngx_connection_t *c = r->connection;

    ngx_http_set_log_request(c->log, r);
    r->buffered &= static_cast<unsigned>(~kBuffered) & 0xf;

    ngx_int_t rc = deliver(context);

    if (rc == NGX_ERROR || rc > NGX_OK) {
        c->error = 1;
    }

    r->write_event_handler(r);
    ngx_http_run_posted_requests(c);
}

}  // namespace idempotency
