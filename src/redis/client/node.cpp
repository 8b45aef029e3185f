#include "redis/client/node.h"

#include <cstdlib>
#include <new>

#include "core/wire.h"

namespace idempotency {

namespace {

// In bytes: from this size on a value goes over the bulk connection.
constexpr std::size_t kMinBulk = 64 * 1024;

// In milliseconds: how often it is logged that the server is a node of a cluster.
constexpr ngx_msec_t kClusterInterval = 60000;

}  // namespace

void RedisNode::Owner::redirected(RedisNode &node, Call &call, Millis, const RedisRedirect &)
{
    node.report_cluster();
    call.reply = failed_reply(Cause::moved);
    call.ended(call);
}

RedisNode::RedisNode(const RedisOptions &options, RedisServer &server, const RedisScripts &scripts,
                     Owner &owner) noexcept
    : options_(options), server_(&server), owner_(owner),
      connections_(static_cast<RedisConnection *>(
          std::malloc(options.connections * sizeof(RedisConnection)))),
      bulk_(options, server, scripts, *this, 0), check_(options, server)
{
    for (ngx_uint_t i = 0; connections_ != nullptr && i < options_.connections; i++) {
        new (&connections_[i]) RedisConnection(options_, server, scripts, *this, kMinBulk);
    }
}

RedisNode::~RedisNode()
{
    for (ngx_uint_t i = 0; connections_ != nullptr && i < options_.connections; i++) {
        connections_[i].~RedisConnection();
    }

    std::free(connections_);
}

void RedisNode::open(ngx_log_t *log, bool on_demand) noexcept
{
    log_ = log;
    is_open_ = true;
    check_.open(log);

    for (ngx_uint_t i = 0; i < options_.connections && !on_demand; i++) {
        connections_[i].open(log);
    }
}

void RedisNode::close() noexcept
{
    is_open_ = false;

    for (ngx_uint_t i = 0; i < options_.connections; i++) {
        connections_[i].close();
    }

    bulk_.close();
    check_.close();
}

void RedisNode::retarget(RedisServer &server) noexcept
{
    server_ = &server;

    for (ngx_uint_t i = 0; i < options_.connections; i++) {
        connections_[i].retarget(server);
    }

    bulk_.retarget(server);
}

// All commands of a key go over one connection, which keeps their order.  The
// exception are large values, so that other calls do not wait behind them: a renewal
// that Redis gets after the result which was sent later is `lost`, and changes nothing.
RedisConnection &RedisNode::connection_of(const Call &call) noexcept
{
    bool is_large = call.kind == Call::Kind::claim    ? call.large > 0
                    : call.kind == Call::Kind::settle ? call.value.size() >= kMinBulk
                                                      : false;
    RedisConnection &connection =
        is_large ? bulk_ : connections_[wire::get_u64(call.id.bytes.data()) % options_.connections];

    if (is_open_ && !connection.is_open()) {
        connection.open(log_);
    }

    return connection;
}

bool RedisNode::start(Call &call) noexcept
{
    call.asking = false;
    call.large = 0;

    RedisConnection &connection = connection_of(call);

    return connection.start(call, connection.deadline());
}

bool RedisNode::start(Call &call, Millis deadline, bool asking) noexcept
{
    call.asking = asking;
    return connection_of(call).start(call, deadline, asking);
}

bool RedisNode::is_available() const noexcept
{
    if (is_cluster_ && ngx_current_msec - cluster_since_ < 2 * kClusterInterval) {
        return false;
    }

    for (ngx_uint_t i = 0; i < options_.connections; i++) {
        if (connections_[i].is_down() || connections_[i].is_stalled()) {
            return false;
        }
    }

    return !bulk_.is_down() && !bulk_.is_stalled();
}

bool RedisNode::idle() const noexcept
{
    for (ngx_uint_t i = 0; i < options_.connections; i++) {
        if (!connections_[i].idle()) {
            return false;
        }
    }

    return bulk_.idle();
}

NodeState RedisNode::state() const noexcept
{
    NodeState state;

    state.name = view(server_->name);
    state.up = is_available();
    state.info = check_.info();

    for (ngx_uint_t i = 0; i < options_.connections; i++) {
        connections_[i].add_to(state);
    }

    bulk_.add_to(state);
    return state;
}

// Events of the connections

bool RedisNode::connection_down(RedisConnection &)
{
    bool is_first = down_++ == 0;

    if (is_first) {
        owner_.node_unavailable(*this);
    }

    return is_first;
}

bool RedisNode::connection_up(RedisConnection &) { return --down_ == 0; }

void RedisNode::stalled(RedisConnection &) { owner_.node_unavailable(*this); }

void RedisNode::available_again(RedisConnection &connection)
{
    if (&connection == connections_) {
        check_.check_soon(*server_);
    }

    for (ngx_uint_t i = 0; i < options_.connections; i++) {
        if (&connections_[i] != &connection) {
            connections_[i].server_replies();
        }
    }

    if (&bulk_ != &connection) {
        bulk_.server_replies();
    }

    owner_.node_available(*this);
}

void RedisNode::report_cluster() noexcept
{
    if (is_cluster_ && ngx_current_msec - cluster_since_ < kClusterInterval) {
        return;
    }

    is_cluster_ = true;
    cluster_since_ = ngx_current_msec;
    ngx_log_error(NGX_LOG_ERR, log_, 0,
                  "idempotency: redis \"%V\" of store \"%V\" is a node of a cluster, and other "
                  "nodes have a part of the keys (it replied MOVED): set \"topology cluster\" in "
                  "the store; until then requests with these keys are refused",
                  &server_->name, &options_.store);
}

void RedisNode::read_only(RedisConnection &) { owner_.read_only(*this); }

void RedisNode::redirected(Call &call, Millis deadline, const RedisRedirect &redirect)
{
    owner_.redirected(*this, call, deadline, redirect);
}

void RedisNode::rerouted(Call &call, Millis deadline)
{
    if (connection_of(call).start(call, deadline, call.asking)) {
        call.ended(call);
    }
}

void RedisNode::cluster_down() { owner_.cluster_down(*this); }

}  // namespace idempotency
