#include "http/admin/key_call.h"

#include <cstring>
#include <new>

#include "core/claim_ids.h"
#include "http/admin/found_key.h"

namespace idempotency {

namespace {

constexpr AdminProblem kNotFound = {NGX_HTTP_NOT_FOUND, "key_not_found",
                                    "The store has nothing under this key: the key is free."};
constexpr AdminProblem kUnavailable = {
    NGX_HTTP_SERVICE_UNAVAILABLE, "store_unavailable",
    "The store can't be reached, or has replied with an error: see the error log of nginx."};
constexpr AdminProblem kMaybeDone = {
    NGX_HTTP_SERVICE_UNAVAILABLE, "store_unavailable",
    "The store did not reply in time: the change may have been made. Look at the key again."};
constexpr AdminProblem kFull = {NGX_HTTP_SERVICE_UNAVAILABLE, "store_full",
                                "The store has no memory for this."};
constexpr AdminProblem kChanged = {NGX_HTTP_CONFLICT, "key_changed",
                                   "The key has changed meanwhile, and was left as it is: look at "
                                   "it again."};
constexpr AdminProblem kRunning = {
    NGX_HTTP_CONFLICT, "key_running",
    "The request of this key is running. With force=1 the key is freed all the same; then the "
    "application may act a second time."};
constexpr AdminProblem kUnknown = {
    NGX_HTTP_CONFLICT, "key_unknown",
    "The outcome of this key is unknown. Find out what happened and settle the key by POST, or "
    "forget it with force=1."};
constexpr AdminProblem kUnreadable = {
    NGX_HTTP_CONFLICT, "key_unreadable",
    "The value of this key can't be read: the application may have acted. force=1 deletes it."};
constexpr AdminProblem kNotUnknown = {NGX_HTTP_CONFLICT, "key_not_unknown",
                                      "Only a key whose outcome is unknown can be settled."};

// An object of its own pool: a change that is on its way ends after its client has left.
class KeyCall : Call {
public:
    static KeyCall *create(ngx_http_request_t *r, const AdminQuestion &question);

    // Returns what a content handler returns.
    ngx_int_t start();

private:
    KeyCall(ngx_pool_t *pool, ngx_http_request_t *r, const AdminQuestion &question);

    static char *on_allocate(Call &call, std::size_t size);
    static void on_ended(Call &call);
    static void on_request_end(void *data);

    // True: the response is known.
    bool look_up();
    bool run(bool has_ended);
    bool handle_reply();
    bool handle_lookup();
    bool handle_found();
    bool change();
    bool handle_change();
    bool respond(const AdminProblem &problem);

    const AdminProblem *refusal() const;
    void write_record(State state, Millis lifetime);
    void log_done(const char *what) const;
    void write_hex_id(char *out) const;
    ngx_int_t send();
    void begin_response(JsonText &text) const;
    ngx_int_t send_found();
    ngx_int_t send_done();

    ngx_pool_t *pool_;
    ngx_http_request_t *request_;  // null when it has ended
    AdminQuestion question_;
    Asker asker_;
    const AdminProblem *problem_ = nullptr;
    FoundKey found_;
    bool is_changing_ = false;
    bool is_oversized_ = false;
    Millis ttl_;
    ClaimId new_claim_;
    const char *done_ = nullptr;
    char seen_[1 + sizeof(ClaimId)];
    unsigned char record_[kLargestClaim];
    std::string_view piece_;
    char *buffer_ = nullptr;
    std::size_t buffer_size_ = 0;
};

KeyCall::KeyCall(ngx_pool_t *pool, ngx_http_request_t *r, const AdminQuestion &question)
    : pool_(pool), request_(r), question_(question), asker_(r), ttl_(location_config(r)->ttl),
      new_claim_(main_config(r)->claim_ids->next())
{
    id = question.id;
    id_is_stored = question.id_is_stored;
    allocate_value = on_allocate;
    ended = on_ended;
}

KeyCall *KeyCall::create(ngx_http_request_t *r, const AdminQuestion &question)
{
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(r->pool, 0);
    ngx_pool_t *pool = cleanup != nullptr ? ngx_create_pool(4096, ngx_cycle->log) : nullptr;
    void *memory = pool != nullptr ? ngx_palloc(pool, sizeof(KeyCall)) : nullptr;

    if (memory == nullptr) {
        if (pool != nullptr) {
            ngx_destroy_pool(pool);
        }
        return nullptr;
    }

    auto *call = new (memory) KeyCall(pool, r, question);

    cleanup->handler = on_request_end;
    cleanup->data = call;
    return call;
}

// The object lives as long as the request and as a call to the store.
void KeyCall::on_request_end(void *data)
{
    auto *self = static_cast<KeyCall *>(data);

    self->request_ = nullptr;

    if (self->problem_ != nullptr || self->done_ != nullptr) {
        ngx_destroy_pool(self->pool_);
    }
}

char *KeyCall::on_allocate(Call &call, std::size_t size)
{
    auto &self = static_cast<KeyCall &>(call);

    self.found_.size = size;

    if (!self.question_.slot->is_embedded && size > self.question_.slot->largest_value) {
        self.is_oversized_ = true;
        return nullptr;
    }

    if (self.buffer_ == nullptr || size > self.buffer_size_) {
        self.buffer_ = static_cast<char *>(ngx_pnalloc(self.pool_, size > 0 ? size : 1));
        self.buffer_size_ = size;
    }

    return self.buffer_;
}

ngx_int_t KeyCall::start()
{
    if (look_up()) {
        return send();
    }

    request_->main->count++;
    return NGX_DONE;
}

void KeyCall::on_ended(Call &call)
{
    auto &self = static_cast<KeyCall &>(call);

    if (!self.run(true)) {
        return;
    }

    ngx_http_request_t *r = self.request_;

    if (r == nullptr) {
        ngx_destroy_pool(self.pool_);
        return;
    }

    ngx_connection_t *c = r->connection;

    ngx_http_finalize_request(r, self.send());
    ngx_http_run_posted_requests(c);
}

bool KeyCall::look_up()
{
    kind = Kind::claim;
    by_operator = true;
    value = {};
    return run(question_.slot->store->start(*this));
}

// Handles replies until a call waits for its reply.
bool KeyCall::run(bool has_ended)
{
    while (has_ended) {
        if (handle_reply()) {
            return true;
        }

        has_ended = question_.slot->store->start(*this);
    }

    return false;
}

// True: the response is known.  False: another call has to be started.
bool KeyCall::handle_reply() { return is_changing_ ? handle_change() : handle_lookup(); }

bool KeyCall::respond(const AdminProblem &problem)
{
    problem_ = &problem;
    return true;
}

bool KeyCall::handle_lookup()
{
    static constexpr KeyId no_id{};

    switch (reply.verdict) {
    case Verdict::gone:
        return respond(kNotFound);

    case Verdict::found:
        // a store that keeps a key under several ids is asked for all of them
        if (id_is_stored && reply.id != no_id && reply.id != id) {
            id = reply.id;
            id_is_stored = false;
            reply = Reply();
            return false;
        }

        found_.size = reply.value.size();
        found_.remaining = reply.remaining;
        found_.id = id;
        break;

    case Verdict::unreadable:
        found_.fault = "it can't be decrypted, or is no record: see the error log of nginx";
        found_.remaining = reply.remaining;
        break;

    default:
        if (!is_oversized_) {
            return respond(kUnavailable);
        }
        found_.fault = "it is too large for a record of this module";
    }

    if (found_.fault == nullptr) {
        RecordFault fault = read_record(reply.value, id, found_.record);

        found_.fault = fault != RecordFault::none ? describe(fault) : nullptr;
    }

    return handle_found();
}

const AdminProblem *KeyCall::refusal() const
{
    if (question_.kind == AdminQuestion::Kind::settle) {
        return found_.is_unknown() ? nullptr : &kNotUnknown;
    }

    if (question_.force || found_.is_finished()) {
        return nullptr;
    }

    return found_.fault != nullptr ? &kUnreadable : found_.is_unknown() ? &kUnknown : &kRunning;
}

bool KeyCall::handle_found()
{
    if (question_.kind == AdminQuestion::Kind::show) {
        done_ = "shown";
        return true;
    }

    if (const AdminProblem *problem = refusal()) {
        return respond(*problem);
    }

    // the client has left, and nothing has been changed yet
    if (request_ == nullptr) {
        return respond(kUnavailable);
    }

    return change();
}

void KeyCall::write_record(State state, Millis how_long)
{
    RecordHead head = found_.record.head;

    head.state = state;
    head.since = static_cast<Millis>(ngx_time()) * 1000;
    head.lifetime = how_long;
    head.hold = 0;

    if (state == State::not_kept) {
        head.claim = new_claim_;  // the former holder must not change it any more
    }

    RecordWriter writer(record_, head);

    writer.add_scope_tag(found_.record.scope_tag);
    writer.finish(id);
    piece_ = {reinterpret_cast<char *>(record_), writer.size()};
    value = {&piece_, 1};
    lifetime = how_long;
}

// False: the call has to be started.
bool KeyCall::change()
{
    // also of an unknown outcome: it may not know yet that the store has recorded it
    bool has_holder = found_.fault == nullptr
                      && (found_.record.head.state == State::running
                          || found_.record.head.state == State::unknown);

    kind = Kind::replace;
    by_operator = false;
    is_changing_ = true;
    value = {};
    seen = {};
    most_remaining = kAnyRemaining;

    if (found_.fault == nullptr) {
        ngx_memcpy(seen_, seen_part(reply.value).data(), sizeof(seen_));
        seen = {seen_, sizeof(seen_)};
    }

    // a holder that came back has renewed its claim
    if (found_.has_lease_expired() && question_.kind == AdminQuestion::Kind::settle) {
        most_remaining = found_.record.head.hold;
    }

    if (question_.kind == AdminQuestion::Kind::settle && question_.is_not_kept) {
        write_record(State::not_kept, ngx_max(ttl_, found_.remaining));
    } else if (has_holder) {
        // longer than its holder can come back
        write_record(State::freed, ngx_max(found_.remaining, Millis(1)));
    }

    reply = Reply();
    return false;
}

void KeyCall::write_hex_id(char *out) const
{
    write_hex(id_is_stored ? id : question_.slot->store->stored_id(id), out);
}

void KeyCall::log_done(const char *what) const
{
    char hex[kHexLength];
    ngx_log_t *log = request_ != nullptr ? request_->connection->log : ngx_cycle->log;

    write_hex_id(hex);
    ngx_log_error(NGX_LOG_NOTICE, log, 0,
                  "idempotency: key %*s in store \"%V\", state %s, token %uL: %s, as %*s asked",
                  kHexLength, hex, &question_.slot->name, found_.state_name(),
                  static_cast<uint64_t>(found_.record.head.token), what, asker_.size, asker_.text);
}

bool KeyCall::handle_change()
{
    switch (reply.verdict) {
    case Verdict::done:
        done_ = question_.kind == AdminQuestion::Kind::forget ? "forgotten"
                : question_.is_not_kept                       ? "not_kept"
                                                              : "released";
        log_done(question_.kind == AdminQuestion::Kind::forget ? "forgotten by an operator"
                 : question_.is_not_kept ? "settled as not kept by an operator"
                                         : "settled as released by an operator");
        return true;

    case Verdict::gone:
        return respond(kNotFound);

    case Verdict::lost:
        return respond(kChanged);

    case Verdict::full:
        return respond(kFull);

    default:
        if (reply.sent) {
            log_done("the change that an operator asked for may have been made: the store has "
                     "not replied");
        }
        return respond(reply.sent ? kMaybeDone : kUnavailable);
    }
}

// The responses

ngx_int_t KeyCall::send()
{
    if (problem_ != nullptr) {
        return send_admin_problem(request_, *problem_);
    }

    return is_changing_ ? send_done() : send_found();
}

void KeyCall::begin_response(JsonText &text) const
{
    char hex[kHexLength];

    write_hex_id(hex);
    text.put("{");
    text.put_utf8_member("store", view(question_.slot->name));
    text.put_member("id", std::string_view(hex, sizeof(hex)));
}

ngx_int_t KeyCall::send_found()
{
    JsonText text(request_->pool);

    begin_response(text);
    write_found_key(text, found_,
                    static_cast<Millis>(ngx_time()) * 1000
                        + static_cast<Millis>(ngx_cached_time->msec));

    if (question_.shows_answer && found_.fault == nullptr
        && found_.record.head.state == State::kept) {
        write_answer(text, found_.record);
        log_done("its response is shown to an operator");
    }

    return send_admin_json(request_, NGX_HTTP_OK, text);
}

ngx_int_t KeyCall::send_done()
{
    JsonText text(request_->pool);

    begin_response(text);
    text.put_member("was", found_.state_name());
    text.put_member("done", done_);
    return send_admin_json(request_, NGX_HTTP_OK, text);
}

}  // namespace

ngx_int_t start_key_call(ngx_http_request_t *r, const AdminQuestion &question)
{
    KeyCall *call = KeyCall::create(r, question);

    return call != nullptr ? call->start() : NGX_HTTP_INTERNAL_SERVER_ERROR;
}

}  // namespace idempotency
