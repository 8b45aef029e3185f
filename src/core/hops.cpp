#include "core/hops.h"

#include <cstring>

#include "core/wire.h"

namespace idempotency {

namespace {

constexpr std::size_t kHopHead = 1 + 2 + 2;  // flags, status, length of the target
constexpr unsigned char kBecomesGet = 0x01;
constexpr unsigned char kEndsPages = 0x02;
constexpr unsigned kLargestStatus = 999;

}  // namespace

void HopWriter::append(std::string_view bytes)
{
    if (!bytes.empty()) {
        std::memcpy(out_ + size_, bytes.data(), bytes.size());
    }

    size_ += bytes.size();
}

void HopWriter::add(const Hop &hop)
{
    if (!fits_ || hop.target.empty() || hop.status > kLargestStatus || out_[0] == kMostHops
        || hop.target.size() > kLargestHops || kHopHead + hop.target.size() > kLargestHops - size_)
    {
        fits_ = false;
        return;
    }

    out_[0]++;
    out_[size_] = static_cast<unsigned char>((hop.becomes_get ? kBecomesGet : 0)
                                             | (hop.ends_pages ? kEndsPages : 0));
    wire::put_u16(out_ + size_ + 1, static_cast<std::uint16_t>(hop.status));
    wire::put_u16(out_ + size_ + 3, static_cast<std::uint16_t>(hop.target.size()));
    size_ += kHopHead;
    append(hop.target);
}

void HopWriter::finish(std::string_view location)
{
    if (location.size() > kLargestHops - size_) {
        fits_ = false;
        return;
    }

    append(location);
}

HopCursor::HopCursor(std::string_view data) : rest_(data), left_(0)
{
    if (!rest_.empty()) {
        left_ = static_cast<unsigned char>(rest_.front());
        rest_.remove_prefix(1);
    }
}

bool HopCursor::next(Hop &hop)
{
    if (left_ == 0 || rest_.size() < kHopHead) {
        return false;
    }

    auto flags = static_cast<unsigned char>(rest_.front());
    unsigned status = wire::get_u16(wire::octets(rest_) + 1);
    std::size_t length = wire::get_u16(wire::octets(rest_) + 3);

    if ((flags & ~(kBecomesGet | kEndsPages)) != 0 || status > kLargestStatus || length == 0
        || length > rest_.size() - kHopHead)
    {
        return false;
    }

    hop.target = rest_.substr(kHopHead, length);
    hop.becomes_get = (flags & kBecomesGet) != 0;
    hop.ends_pages = (flags & kEndsPages) != 0;
    hop.status = status;
    rest_.remove_prefix(kHopHead + length);
    left_--;
    return true;
}

bool are_hops(std::string_view data)
{
    HopCursor cursor(data);
    Hop hop;

    if (data.size() > kLargestHops || cursor.left() == 0 || cursor.left() > kMostHops) {
        return false;
    }

    while (cursor.next(hop)) {
    }

    return cursor.left() == 0;
}

}  // namespace idempotency
