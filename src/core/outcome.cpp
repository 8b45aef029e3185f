#include "core/outcome.h"

namespace idempotency {

namespace {

struct Text {
    Settlement settlement;
    const char *name;
    const char *reason;
};

constexpr Text texts[] = {
    {Settlement::release, "", ""},
    {Settlement::keep, "kept", ""},
    {Settlement::not_kept, "not_kept_size", "size"},
    {Settlement::not_kept, "not_kept_store", "store"},
    {Settlement::not_kept, "not_kept_stream", "stream"},
    {Settlement::not_kept, "not_kept_word", "word"},
    {Settlement::release, "released", "word"},
    {Settlement::release, "released", "status"},
    {Settlement::release, "released", "unsent"},
    {Settlement::release, "released", "policy"},
    {Settlement::release, "released", "refused"},
    {Settlement::release, "released", "upgrade"},
    {Settlement::unknown, "unknown", ""},
    {Settlement::release, "lost", ""},
    {Settlement::release, "untold", ""},
};

static_assert(sizeof(texts) / sizeof(texts[0]) == kOutcomes);

const Text &text_of(Outcome outcome) { return texts[static_cast<std::size_t>(outcome)]; }

}  // namespace

Settlement settlement_of(Outcome outcome) { return text_of(outcome).settlement; }

const char *outcome_name(Outcome outcome) { return text_of(outcome).name; }

const char *outcome_reason(Outcome outcome) { return text_of(outcome).reason; }

}  // namespace idempotency
