# nginx's ./configure reads this when it has written its Makefile.

# Some compilers have an older C++ as their default: clang 14 of Debian 12 has C++14.
for ngx_src in $(cat "$ngx_addon_dir/src/sources.list"); do
    ngx_obj=$(basename "$(dirname "$ngx_src")")/$(basename "$ngx_src" .cpp)
    echo "$NGX_OBJS/addon/$ngx_obj.o: CFLAGS += -std=gnu++17" >> "$NGX_MAKEFILE"
done
