// The part of Counters that is not called by requests: Redis nodes, and how fast the memory of a
// store fills up.

#include <cstring>

#include "http/metrics/counters.h"
#include "http/metrics/process.h"

namespace idempotency {

namespace {

// Milliseconds.  A node that no worker has seen for kForgetNode is not shown; its entry is used
// again later.
constexpr std::uint64_t kForgetNode = 10000;
constexpr std::uint64_t kReuseNode = 60000;
constexpr std::uint64_t kUsageInterval = 10000;
constexpr std::uint64_t kShortestUsage = 1000;

// As counts of a worker start at 0 with each new connection object, they may go back.
std::uint64_t growth(std::uint64_t now, std::uint64_t &before)
{
    std::uint64_t by = now >= before ? now - before : now;

    before = now;
    return by;
}

class Lock {
public:
    explicit Lock(ngx_slab_pool_t *slab) : mutex_(slab->mutex) { ngx_shmtx_lock(&mutex_); }
    ~Lock() { ngx_shmtx_unlock(&mutex_); }
    Lock(const Lock &) = delete;
    Lock &operator=(const Lock &) = delete;

private:
    ngx_shmtx_t &mutex_;
};

}  // namespace

// The entry of a node; a new one if there is none yet.  kMaxNodes: there is no free entry.
std::size_t Counters::find_node(std::string_view name)
{
    std::size_t unused = kMaxNodes;

    for (std::size_t i = 0; i < kMaxNodes; i++) {
        Node &node = shared_->nodes[i];

        if (name == node.name) {
            return i;
        }

        if (unused == kMaxNodes
            && (node.name[0] == '\0' || ngx_current_msec > node.seen_at + kReuseNode)) {
            unused = i;
        }
    }

    if (unused == kMaxNodes) {
        return kMaxNodes;
    }

    Node &node = shared_->nodes[unused];

    node = Node();
    std::memcpy(node.name, name.data(), name.size());
    added_[unused] = Added();

    for (WorkerCell &cell : shared_->cells) {
        cell.nodes[unused].clear();
    }

    return unused;
}

void Counters::put_node(const NodeState &state, std::size_t index)
{
    Node &node = shared_->nodes[index];
    NodeCell &cell = cell_->nodes[index];

    node.seen_at = ngx_current_msec;
    node.commands += growth(state.commands, added_[index].commands);
    node.reconnects += growth(state.reconnects, added_[index].reconnects);
    set(cell.connections, state.connections);
    set(cell.in_flight, state.in_flight);
    set(cell.is_down, !state.up);

    // only one worker asks the node
    if (ngx_worker == 0) {
        node.info = state.info;
    }
}

void Counters::put_nodes(const NodeState *states, std::size_t count)
{
    Lock lock(slab_);
    bool is_used[kMaxNodes] = {};

    for (std::size_t i = 0; i < count; i++) {
        std::string_view name = states[i].name.substr(0, sizeof(Node::name) - 1);
        std::size_t index = find_node(name);

        if (index < kMaxNodes) {
            is_used[index] = true;
            put_node(states[i], index);
        }
    }

    for (std::size_t i = 0; i < kMaxNodes; i++) {
        if (!is_used[i]) {
            cell_->nodes[i].clear();
        }
    }
}

void Counters::put_used_memory(std::uint64_t used)
{
    Lock lock(slab_);
    Usage &last = shared_->usages[(shared_->next_usage + kUsages - 1) % kUsages];

    if (last.at == 0 || ngx_current_msec - last.at >= kUsageInterval) {
        shared_->usages[shared_->next_usage] = {ngx_current_msec, used};
        shared_->next_usage = (shared_->next_usage + 1) % kUsages;
    }
}

void Counters::read_nodes(StoreMetrics &out)
{
    Lock lock(slab_);

    for (std::size_t i = 0; i < kMaxNodes; i++) {
        const Node &node = shared_->nodes[i];

        if (node.name[0] == '\0' || ngx_current_msec > node.seen_at + kForgetNode) {
            continue;
        }

        NodeFigures &figures = out.nodes[out.node_count++];

        std::memcpy(figures.name, node.name, sizeof(figures.name));
        figures.up = true;
        figures.commands = node.commands;
        figures.reconnects = node.reconnects;
        figures.info = node.info;

        for (const WorkerCell &cell : shared_->cells) {
            if (get(cell.pid) != 0 && is_alive(get(cell.pid))) {
                figures.up = figures.up && get(cell.nodes[i].is_down) == 0;
                figures.connections += get(cell.nodes[i].connections);
                figures.in_flight += get(cell.nodes[i].in_flight);
            }
        }
    }
}

// As the memory has grown since the oldest value that is known.
void Counters::read_usage(StoreMetrics &out, std::uint64_t free)
{
    Lock lock(slab_);
    const Usage *oldest = nullptr;

    for (const Usage &usage : shared_->usages) {
        if (usage.at != 0 && (oldest == nullptr || usage.at < oldest->at)) {
            oldest = &usage;
        }
    }

    if (oldest == nullptr || ngx_current_msec < oldest->at + kShortestUsage
        || out.used_memory <= oldest->used)
    {
        return;
    }

    double grown = static_cast<double>(out.used_memory - oldest->used);
    double passed = static_cast<double>(ngx_current_msec - oldest->at);

    out.is_filling = true;
    out.full_in = static_cast<std::uint64_t>(static_cast<double>(free) * passed / grown);
}

}  // namespace idempotency
