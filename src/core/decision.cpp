#include "core/decision.h"

namespace idempotency {

namespace {

bool is_space(char c) { return c == ' ' || c == '\t'; }

std::string_view trimmed(std::string_view text)
{
    while (!text.empty() && is_space(text.front())) {
        text.remove_prefix(1);
    }
    while (!text.empty() && is_space(text.back())) {
        text.remove_suffix(1);
    }
    return text;
}

bool equals_ignoring_case(std::string_view text, std::string_view lower)
{
    if (text.size() != lower.size()) {
        return false;
    }

    for (std::size_t i = 0; i < text.size(); i++) {
        char c = text[i] >= 'A' && text[i] <= 'Z' ? static_cast<char>(text[i] | 0x20) : text[i];

        if (c != lower[i]) {
            return false;
        }
    }

    return true;
}

// 0 if the text is not a number of seconds from 1 to those of kLongestTtl.
Millis seconds(std::string_view digits)
{
    Millis value = 0;

    for (char c : digits) {
        if (c < '0' || c > '9') {
            return 0;
        }

        value = value * 10 + static_cast<Millis>(c - '0');

        if (value > kLongestTtl / 1000) {
            return 0;
        }
    }

    return value;
}

void parse_part(std::string_view part, Word &word)
{
    constexpr std::string_view ttl = "ttl=";

    if (equals_ignoring_case(part, "release")) {
        word.release = true;

    } else if (equals_ignoring_case(part, "no-store")) {
        word.no_store = true;

    } else if (equals_ignoring_case(part.substr(0, ttl.size()), ttl)
               && seconds(part.substr(ttl.size())) != 0)
    {
        word.ttl = seconds(part.substr(ttl.size())) * 1000;

    } else {
        word.well_formed = false;
    }
}

}  // namespace

Action decide_by_record(const Record &record, Millis remaining, const Fingerprint &fingerprint)
{
    if (record.head.fingerprint != fingerprint) {
        return Action::reused;
    }

    switch (record.head.state) {
    case State::running:
        return record.head.hold > 0 && remaining <= record.head.hold ? Action::outcome_unknown
                                                                     : Action::in_progress;
    case State::unknown:
    case State::freed:  // a store replies that such a key is free
        return Action::outcome_unknown;
    case State::not_kept:
        return Action::not_kept;
    case State::kept:
        break;
    }

    return Action::replay;
}

Millis ttl_of_status(const TtlRule *rules, std::size_t count, unsigned status, Millis otherwise)
{
    Millis ttl = otherwise;

    for (std::size_t i = 0; i < count; i++) {
        if (status < rules[i].first || status > rules[i].last) {
            continue;
        }

        ttl = rules[i].ttl;

        if (rules[i].first == rules[i].last) {
            break;
        }
    }

    return ttl;
}

Millis hold_time(UnknownPolicy policy, Millis hold, Millis ttl)
{
    if (policy == UnknownPolicy::release) {
        return 0;
    }

    return hold != 0 ? hold : ttl;
}

void parse_word(std::string_view field, Word &word)
{
    while (!field.empty()) {
        std::size_t comma = field.find(',');
        std::string_view part = trimmed(field.substr(0, comma));

        if (!part.empty()) {
            parse_part(part, word);
        }

        field.remove_prefix(comma == std::string_view::npos ? field.size() : comma + 1);
    }
}

Outcome decide_without_response(Origin origin, UnknownPolicy unknown)
{
    if (origin == Origin::not_reached) {
        return Outcome::released_unsent;
    }

    return unknown == UnknownPolicy::release ? Outcome::released_policy : Outcome::unknown;
}

Outcome decide_outcome(const ResponseFacts &facts)
{
    bool keepable = facts.obstacle == Outcome::none;

    if (facts.origin == Origin::not_reached
        || (facts.origin == Origin::broken && facts.unknown != UnknownPolicy::store))
    {
        return decide_without_response(facts.origin, facts.unknown);
    }

    // the application knows better than its status
    if (facts.word.release) {
        return Outcome::released_word;
    }

    if (facts.word.no_store) {
        return Outcome::not_kept_word;
    }

    if (facts.origin == Origin::application && facts.retriable) {
        return Outcome::released_status;
    }

    if (facts.call_given_up && !(facts.unknown == UnknownPolicy::store && keepable)) {
        return decide_without_response(Origin::broken, facts.unknown);
    }

    return keepable ? Outcome::kept : facts.obstacle;
}

}  // namespace idempotency
