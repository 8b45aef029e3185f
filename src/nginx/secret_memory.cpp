#include "nginx/secret_memory.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <sys/mman.h>

namespace idempotency {

namespace {

struct Secret {
    void *memory;
    size_t size;
};

void forget(void *data)
{
    auto *secret = static_cast<Secret *>(data);

    ngx_explicit_memzero(secret->memory, secret->size);
    (void) munmap(secret->memory, secret->size);
}

// nginx reads a file in pieces into one buffer.  Between two directives it needs only what is
// between `pos` and `last`.
void wipe_read_bytes(ngx_buf_t &buffer)
{
    ngx_explicit_memzero(buffer.start, static_cast<size_t>(buffer.pos - buffer.start));
    ngx_explicit_memzero(buffer.last, static_cast<size_t>(buffer.end - buffer.last));
}

void wipe_text(ngx_buf_t &buffer, const ngx_str_t &text)
{
    auto *end = reinterpret_cast<char *>(buffer.last);
    auto *at = reinterpret_cast<char *>(buffer.start);
    std::string_view wanted = view(text);

    while (!wanted.empty() && (at = std::search(at, end, wanted.begin(), wanted.end())) != end) {
        ngx_explicit_memzero(at, wanted.size());
    }
}

}  // namespace

void *allocate_secret(ngx_pool_t *pool, size_t size) noexcept
{
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(pool, sizeof(Secret));
    size_t pages = ngx_align(size, ngx_pagesize);

    if (cleanup == nullptr) {
        return nullptr;
    }

    void *memory = mmap(nullptr, pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED) {
        return nullptr;
    }

    exclude_from_core_dump(memory, pages);
    *static_cast<Secret *>(cleanup->data) = {memory, pages};
    cleanup->handler = forget;
    return memory;
}

ngx_str_t copy_secret(ngx_pool_t *pool, const ngx_str_t &text) noexcept
{
    ngx_str_t copy = ngx_null_string;

    copy.data = static_cast<u_char *>(allocate_secret(pool, text.len));

    if (copy.data != nullptr) {
        ngx_memcpy(copy.data, text.data, text.len);
        copy.len = text.len;
    }

    return copy;
}

void exclude_from_core_dump(void *memory, size_t size) noexcept
{
    // only whole pages
    const std::size_t behind = reinterpret_cast<std::uintptr_t>(memory) % ngx_pagesize;
    const std::size_t skipped = behind == 0 ? 0 : ngx_pagesize - behind;

    if (size < skipped + ngx_pagesize) {
        return;
    }

    [[maybe_unused]] auto *begin = static_cast<u_char *>(memory) + skipped;
    [[maybe_unused]] const std::size_t length = (size - skipped) / ngx_pagesize * ngx_pagesize;

#if defined(MADV_DONTDUMP)
    (void) madvise(begin, length, MADV_DONTDUMP);
#elif defined(MADV_NOCORE)
    (void) madvise(begin, length, MADV_NOCORE);
#endif
}

void wipe_argument(ngx_conf_t *cf, ngx_str_t &argument) noexcept
{
    // the option -g is no file, and nginx reads it again when it is reloaded
    bool is_file = cf->conf_file != nullptr && cf->conf_file->file.fd != NGX_INVALID_FILE;

    if (is_file && cf->conf_file->dump != nullptr && !ngx_dump_config) {
        wipe_text(*cf->conf_file->dump, argument);
    }

    if (is_file && cf->conf_file->buffer != nullptr) {
        wipe_read_bytes(*cf->conf_file->buffer);
    }

    ngx_explicit_memzero(argument.data, argument.len);
}

}  // namespace idempotency
