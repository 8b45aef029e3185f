# A wrong configuration is an error of nginx -t that names the directive, the value and valid values.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use POSIX ();
use Test::More;
use IdempotencyTest::Environment qw(no_resolver store_mode);
use IdempotencyTest::Nginx;

plan skip_all => 'needs no store: run with the memory store alone' if store_mode() ne 'memory';

my $nginx = IdempotencyTest::Nginx->new;
my $directory = $nginx->directory;
my $memory = 'idempotency_store main { memory 1m; }';

sub nginx_says { return $nginx->set(main => '', http => '', server => '', stores => $memory, @_)->test_configuration }

sub is_right {
    my ($name, @parts) = @_;
    my ($status, $output) = nginx_says(@parts);
    is $status, 0, $name or diag $output;
    unlike $output, qr/\[(?:warn|error|emerg)\]/, "$name, without a warning";
}

# `expected`: texts that the only error line has to contain.
sub is_wrong {
    my ($name, $parts, @expected) = @_;
    my ($status, $output) = nginx_says(@$parts);
    my ($line) = $output =~ /^\w+: (\[emerg\] .*)$/m;

    isnt $status, 0, "$name is an error";
    my @missing = grep { ($line // $output) !~ $_ } map { ref ? $_ : qr/\Q$_\E/ } @expected;
    ok !@missing, "$name: the message tells what is wrong" or diag "no @missing in: ", $line // $output;
}

# In a location: the directive, its wrong value, and the valid values in the message.
sub is_wrong_value {
    my ($directive, $value, @right) = @_;
    is_wrong("$directive $value", [server => "location / { idempotency main; $directive $value; }"],
        "invalid value \"" . ($value =~ s/"//gr) . "\" in \"$directive\"", @right);
}

# In a store.
sub is_wrong_store {
    my ($directives, @expected) = @_;
    is_wrong("a store with '$directives'", [stores => "idempotency_store shop { $directives }"], @expected);
}

# Valid configurations.

is_right 'a configuration without the module', stores => '';
is_right 'a store that is not used';
is_right "idempotency main $_", server => "idempotency main $_;" for 'observe', 'required observe', 'observe required';
is_right 'every directive in every context', do {
    my $all = <<'END';
        idempotency main required;
        idempotency_key $http_x_request_id;
        idempotency_methods POST PUT REPORT M-SEARCH;
        idempotency_scope "$http_x_tenant/$remote_user";
        idempotency_fingerprint "$request_method $request_uri" body=off;
        idempotency_ttl 1h 404=5m 4xx=30m 5xx=1m;
        idempotency_lease 5s;
        idempotency_conflict wait 10s;
        idempotency_unknown hold 1h;
        idempotency_keepalive_idle 500ms;
        idempotency_retriable 404 5xx UNAVAILABLE;
        idempotency_max_body 64k;
        idempotency_stream text/event-stream application/vnd.x+json after=5m;
        idempotency_hide_header Set-Cookie X-Secret;
        idempotency_store_error pass;
        idempotency_bypass $arg_a $arg_b;
        idempotency_quota $remote_user 50r/s burst=1000;
        idempotency_answer idempotency_key_reused 409;
        idempotency_answer store_unavailable 500 code=no-store.now;
        idempotency_replayed_header X-Replayed;
        idempotency_problem_base https://api.example.com/problems/;
END
    (http => "idempotency_max_unsent 64m; $all", server => "$all\nlocation / { $all }");
};
is_right 'the other words of every directive', server => <<'END';
        idempotency off;
        location / {
            idempotency main;
            idempotency_scope off;
            idempotency_ttl $upstream_http_x_ttl 5xx=1m;
            idempotency_fingerprint $request_id body=on;
            idempotency_conflict reject;
            idempotency_unknown hold;
            idempotency_retriable none;
            idempotency_stream off;
            idempotency_store_error reject;
            idempotency_quota off;
            idempotency_replayed_header off;
        }
        location /b { idempotency main; idempotency_unknown store; }
        location /c { idempotency main; idempotency_unknown release; }
END
is_right 'the page of figures', server => join ' ', map { "location /s$_ { idempotency_status $_; allow 127.0.0.1; deny all; }" } '', qw(json prometheus html);
is_right 'the page of figures without a store', stores => '', server => 'location /s { idempotency_status; }';

my $password = $nginx->write_file('password', "secret\n");
is_right "a store with '$_'", stores => "idempotency_store main { $_ }" for
    'memory 64m;', 'memory 1024k;', 'memory 1048576;', 'memory 1g;', 'redis redis://127.0.0.1; near_cache 1G;', 'redis redis://127.0.0.1:6379/0;', 'redis redis://127.0.0.1;', 'redis redis://user:password@127.0.0.1:6380/7;',
    'redis redis://:password@127.0.0.1;', 'redis redis://[::1]:6379;', 'redis unix:/run/redis.sock;', 'redis unix:/run/redis.sock?db=3;',
    'redis redis://127.0.0.1; user u; password p; database 3;', "redis redis://127.0.0.1; password_file $password;",
    'redis redis://127.0.0.1; connect_timeout 500ms; timeout 2s; connections 4; prefix shop:;';
is_right 'two stores', stores => 'idempotency_store a { memory 1m; } idempotency_store b { redis redis://127.0.0.1; }';

# Stores.

is_wrong 'an unknown store', [server => 'idempotency nowhere;'], '"idempotency"', 'nowhere', qr/main|idempotency_store/;
{
    # the file of the directive, not the one where the http block ends
    my $file = $nginx->write_file('site.conf', "\nlocation /a { idempotency nowhere; }\n");
    is_wrong 'an unknown store in an included file', [server => "include $file;"], "unknown store \"nowhere\" in \"idempotency\" in $file:2: define it with \"idempotency_store nowhere { ... }\" in the http block";
}
is_wrong 'an unknown store in an inherited directive', [http => 'idempotency nowhere;', server => 'location / { }'], '"idempotency"', 'nowhere';
is_wrong 'two stores of one name', [stores => "$memory $memory"], 'idempotency_store', 'main', qr/duplicate/;
is_wrong "a store whose name has $_->[0]", [stores => "idempotency_store 'a$_->[1]b' { memory 1m; }"], '"idempotency_store"', 'in UTF-8'
    for ['a byte that is no UTF-8', "\xff"], ['half a character', "\xe2\x82"], ['a surrogate', "\xed\xa0\x80"], ['a control character', "\1"], ['DEL', "\x7f"];
is_right 'a store whose name has letters of any script', stores => "idempotency_store '\xe2\x82\xac \xf0\x9f\x92\xb3' { memory 1m; }";
is_wrong 'a store without a name', [stores => 'idempotency_store { memory 1m; }'], '"idempotency_store"', 'number of arguments';
is_wrong 'a store without a block', [stores => 'idempotency_store main;'], '"idempotency_store"', 'no opening "{"';

is_wrong_store 'memory 1m; redis redis://127.0.0.1;', 'shop', 'memory', 'redis', 'exactly one';
is_wrong_store 'redis redis://127.0.0.1; memory 1m;', 'shop', 'memory', 'redis', 'exactly one';
is_wrong_store '', 'shop', 'memory', 'redis', 'exactly one';
is_wrong_store "$_ 1m;", "\"$_\"", 'shop' for qw(memmory size);
is_wrong_store 'memory 1m; memory 2m;', '"memory"', 'duplicate', 'shop';
is_wrong_store 'redis redis://a; redis redis://b;', '"redis"', 'duplicate', 'shop';
is_wrong_store 'redis redis://127.0.0.1; timeout 1s; timeout 2s;', '"timeout"', 'duplicate', 'shop';
is_wrong_store "memory$_;", qr/number of arguments in "memory" of store "shop": it must be "memory SIZE"/ for '', ' 1m 2m';
is_wrong_store "redis redis://127.0.0.1; $_->[0];", qr/number of arguments in "\w+" of store "shop": it must be "\Q$_->[1]\E"/
    for ['wait_replicas 1 2 3', 'wait_replicas N TIME | off'], ['near_cache off 1m', 'near_cache SIZE | off'], ['database', 'database N'], ['password a b', 'password TEXT'],
        ['topology', 'topology standalone | cluster | sentinel MASTER [master_ssl=on|off] [sentinel_user=NAME] [sentinel_password_file=FILE]'];
is_wrong_store "memory $_;", '"memory"', $_, qr/at least 256k with a unit of k, m or g, such as 64m/ for qw(1x 1mm m -1m 0 1k 1t lots 99999999999999999999 99999999999999g);
is_wrong_store "memory 1m; $_;", (split / /)[0], 'redis', 'shop' for 'timeout 1s', 'connections 2', 'prefix p', 'user u', 'password p', 'database 1', 'connect_timeout 1s';

is_wrong_store "redis $_;", '"redis"', qr/URL|host|port|database|path|scheme|redis:\/\//
    for qw(127.0.0.1:6379 http://127.0.0.1 redis:// redis:/127.0.0.1 redis://:6379 redis://127.0.0.1:0 redis://127.0.0.1:65536 redis://127.0.0.1:port
        redis://127.0.0.1/db redis://127.0.0.1/-1 redis://[::1 unix: unix:relative unix:/run/redis.sock?db=x unix:/run/redis.sock?x=1 unix:/run/redis.sock:2 unix:/run/redis.sock:), '""';
is_wrong_store 'redis redis://127.0.0.1 redis://127.0.0.1:6380 redis://127.0.0.1:x; topology cluster;', 'invalid URL 3 in "redis" of store "shop": the port must be a number';
is_wrong_store 'redis redis://127.0.0.1,127.0.0.2;', 'several URLs are separated by spaces, not by commas';
is_wrong_store 'redis redis://127.0.0.1, redis://127.0.0.2; topology cluster;', 'several URLs are separated by spaces, not by commas';
is_wrong_store "redis redis://$_;", 'only ":port" may follow the host; an IPv6 address must be in brackets' for '::1', '127.0.0.1:6379:1';
is_wrong_store 'redis;', '"redis"', 'shop', qr/number of arguments|URL/;
is_wrong 'a name that does not exist', [http => no_resolver, stores => 'idempotency_store shop { redis redis://nowhere.invalid; }'], 'nowhere.invalid';
is_wrong_store 'redis redis://user:opensesame@127.0.0.1:bad;', '"redis"';
unlike((nginx_says(stores => 'idempotency_store shop { redis redis://user:opensesame@127.0.0.1:bad; }'))[1], qr/opensesame/,
    'a password is not in the message of an error');

my @redis = 'redis redis://127.0.0.1;';
is_wrong_store "@redis timeout $_;", '"timeout"', $_, qr/time above 0/ for qw(0 0s 0ms 1x abc -1s);
is_wrong_store "@redis connect_timeout $_;", '"connect_timeout"', $_, qr/time above 0/ for qw(0 soon);
is_wrong_store "@redis connections $_;", '"connections"', $_, qr/number from 1/ for qw(0 -1 many 1000);
is_wrong_store "@redis database $_;", '"database"', $_, qr/number from 0/ for qw(-1 first 99999999);
is_wrong_store "@redis prefix \"\";", '"prefix"', 'characters';
is_wrong_store "@redis user \"\";", '"user"', qr/name/;
is_wrong_store "@redis password \"\";", '"password"', qr/empty/;
is_wrong_store "@redis $_->[0]", qr/store "shop" has both "password" and "password_file": remove one of them/
    for ["password a; password_file $password;"], ["password_file $password; password a;"];
is_wrong_store "redis redis://$_->[0]; $_->[1];", qr/store "shop" has a $_->[2] in the URL of "redis" and in "$_->[3]": remove it from the URL, or remove "$_->[3]"/
    for ['u:p@127.0.0.1', 'password b', 'password', 'password'], [':p@127.0.0.1', "password_file $password", 'password', 'password_file'], ['u:p@127.0.0.1', 'user v', 'user', 'user'],
        ['127.0.0.1/1', 'database 2', 'database', 'database'], ['me:sesame@127.0.0.1', 'topology sentinel m sentinel_user=you', 'user of the sentinels', 'sentinel_user'],
        [':sesame@127.0.0.1', "topology sentinel m sentinel_password_file=$password", 'password of the sentinels', 'sentinel_password_file'];
is_wrong_store 'redis redis://u@127.0.0.1;', 'the user has no password: write redis://user:password@host';
is_wrong_store "@redis user u;", 'store "shop": the user has no password', '"password"', '"password_file"', 'URL';
is_wrong_store "@redis user u; topology sentinel m;", qr/store "shop": the user of the master has no password: set it with "password" or "password_file"(?!.*URL)/;

# Every file that must have a secret.  A named pipe has no writer.
{
    my $pipe = "$directory/pipe";
    POSIX::mkfifo($pipe, 0600) or die "$pipe: $!";

    for my $each (["password_file", 'password_file '], ['sentinel_password_file', 'topology sentinel m sentinel_password_file='], ['encryption_key_file', 'encryption_key_file ']) {
        my ($name, $parameter) = @$each;
        is_wrong_store "@redis $parameter$directory/none;", "\"$name\" can't open \"$directory/none\" (2: No such file or directory)";
        is_wrong_store "@redis $parameter$_;", "\"$name\" can't use \"$_\": it is not a regular file" for $directory, '/dev/null', $pipe;
        is_wrong_store "@redis $parameter" . $nginx->write_file('empty', '') . ';', qr/"$name" can't use "\S+\/empty": the file is empty, and must have (the password in its first line|a key: "openssl rand)/;
    }

    for my $parameter ('password_file ', 'topology sentinel m sentinel_password_file=') {
        is_wrong_store "@redis $parameter" . $nginx->write_file('wrong', $_) . ';', qr/password_file" can't use "\S+\/wrong": its first line must be the password, with 1 to 1023 bytes/
            for "\nsecret\n", 'x' x 1024;
    }
    is_right 'a password of 1023 bytes', stores => "idempotency_store main { @redis password_file " . $nginx->write_file('long', 'x' x 1023) . '; }';
}

# several servers
is_wrong_store 'redis redis://127.0.0.1 redis://127.0.0.1:6380;', '"redis"', 'shop', 'topology cluster', 'topology sentinel MASTER';
is_wrong_store "@redis topology $_;", '"topology"', qr/"standalone", "sentinel MASTER" or "cluster"/ for qw(ring Cluster "");
is_wrong_store "@redis topology $_;", '"topology"', qr/the name of the master must follow/ for 'sentinel', 'sentinel ""';
is_wrong_store "@redis topology $_->[0] $_->[1]=$_->[2];", qr/invalid parameter "$_->[1]" in "topology": parameters are only valid with "topology sentinel MASTER"/
    for map { my $topology = $_; map { [$topology, @$_] } ['master_ssl', 'on'], ['sentinel_user', 'u'], ['sentinel_password_file', 'f'], ['x', ''] } qw(cluster standalone);
is_wrong_store "@redis topology sentinel m $_;", '"topology"', qr/"master_ssl=on", "master_ssl=off", "sentinel_user=NAME" or "sentinel_password_file=FILE"/
    for 'x', 'master_ssl', 'password_file=x';
is_wrong_store "@redis topology sentinel m master_ssl=$_;", qr/invalid value "master_ssl=$_" in "topology": it must be "master_ssl=on" or "master_ssl=off"/ for '', 'yes', 'ON', '1';
is_wrong_store "@redis topology sentinel m sentinel_$_->[0]=;", qr/invalid parameter "sentinel_$_->[0]" in "topology": the name of a $_->[1] must follow/ for ['user', 'user'], ['password_file', 'file'];
is_wrong_store "@redis topology sentinel m $_;", '"topology"', qr/it is given twice: remove one of them/
    for 'master_ssl=on master_ssl=off', 'sentinel_user=a sentinel_user=b', "sentinel_password_file=$password sentinel_password_file=$password";
is_wrong_store "@redis topology sentinel $_;", '"topology"', qr/the name of the master must come first/ for 'master_ssl=on', 'sentinel_password=sesame m';
unlike((nginx_says(stores => "idempotency_store shop { @redis topology sentinel $_; }"))[1], qr/sesame/, "the message about '$_' does not show the password")
    for 'm sentinel_password=sesame', 'm password=sesame', 'sentinel_password=sesame';
is_wrong_store "@redis topology sentinel m sentinel_user=me;", 'store "shop": the user of the sentinels has no password', '"sentinel_password_file" in "topology"', 'URL';
is_wrong_store "@redis ssl_name a; topology sentinel m$_;", qr/"ssl_name" in store "shop" is only valid with TLS: use URLs "rediss:\/\/\.\.\.", or "master_ssl=on" in "topology" for TLS to the master alone/
    for '', ' master_ssl=off';
is_wrong_store "redis unix:/run/redis.sock; topology $_;", 'shop', '"redis"', '"unix:"' for 'cluster', 'sentinel m';
is_wrong_store 'redis redis://127.0.0.1/3; topology cluster;', 'shop', 'database';
is_wrong_store "@redis database 3; topology cluster;", 'shop', 'database';
is_wrong_store 'redis redis://127.0.0.1 rediss://127.0.0.1:6380; topology cluster;', 'shop', 'rediss://', qr/same scheme/;
is_wrong_store 'redis redis://a:opensesame@127.0.0.1 redis://b:opensesame@127.0.0.1:6380; topology cluster;', 'shop', qr/credentials.* all must have the same/;
is_wrong_store 'redis redis://127.0.0.1/1 redis://127.0.0.1:6380/2; topology sentinel m;', 'shop', qr/databases.* all must have the same/;

# TLS
is_wrong_store "@redis $_;", '"' . (split / /)[0] . '"', 'shop', qr/use a URL "rediss:\/\/\.\.\."(?!.*master_ssl)/
    for 'ssl_name a', 'ssl_verify on', 'ssl_protocols TLSv1.3', 'ssl_trusted_certificate a', 'ssl_certificate a', 'ssl_certificate_key a';
my @tls = 'redis rediss://127.0.0.1;';
is_wrong_store "@tls ssl_verify $_;", '"ssl_verify"', $_, qr/"on" or "off"/ for qw(1 yes no);
is_wrong_store "@tls ssl_protocols TLSv1.2 $_;", '"ssl_protocols"', $_, 'TLSv1.3' for qw(SSLv3 TLSv9 tlsv1.2);
is_wrong_store "@tls ssl_$_ \"\";", "\"ssl_$_\"", qr/it must be/ for qw(name certificate certificate_key trusted_certificate);
is_wrong_store "@tls ssl_$_ a;", 'ssl_certificate', 'ssl_certificate_key', qr/together/ for qw(certificate certificate_key);

# limits
is_wrong_store "@redis wait_replicas $_;", '"wait_replicas"', qr/number of replicas and a time, such as "1 100ms", or "off"/ for 1, 'on';
is_wrong_store "@redis wait_replicas off 1s;", 'invalid value "1s" in "wait_replicas": "off" must be the only parameter';
is_wrong_store "@redis wait_replicas $_ 100ms;", '"wait_replicas"', $_, qr/number from 1/ for qw(0 -1 all 1000);
is_wrong_store "@redis wait_replicas 1 $_;", '"wait_replicas"', $_, qr/time above 0/ for qw(0 soon);
is_wrong_store "@redis near_cache $_;", '"near_cache"', $_, qr/at least 256k with a unit of k, m or g, such as 64m, or "off"/ for qw(on 1k m 1t);
is_wrong_store "@redis encryption_key_file \"\";", '"encryption_key_file"', qr/it must be the name of a file/;
is_wrong_store "memory 1m; $_;", '"' . (split / /)[0] . '"', 'shop', '"redis"'
    for 'topology cluster', 'ssl_name a', 'wait_replicas 1 1s', 'near_cache 1m', 'encryption_key_file a';

# Directives of a location.

is_wrong 'idempotency without a name', [server => 'idempotency "";'], '"idempotency"', 'name of a store';
is_wrong 'idempotency with an unknown word', [server => 'idempotency main requires;'], '"idempotency"', 'requires', '"required"';
is_wrong 'idempotency off required', [server => 'idempotency off required;'], '"idempotency"', 'required', '"off"';
is_wrong 'idempotency off observe', [server => 'idempotency off observe;'], '"idempotency"', 'observe', '"off"';
is_wrong 'idempotency with a third word', [server => 'idempotency main observe x;'], '"idempotency"', 'x', '"required" or "observe"';
is_wrong "idempotency with '$_' twice", [server => "idempotency main $_ $_;"], '"idempotency"', $_, 'given twice: remove one of them' for qw(required observe);
is_wrong 'idempotency with four words', [server => 'idempotency main required observe x;'], '"idempotency"', 'number of arguments';
is_wrong_value 'idempotency_key', $_, 'value with a variable, such as $http_idempotency_key' for '""', 'http_idempotency_key', '"a key"', 'off';
is_wrong 'a variable that nobody knows', [server => 'location / { idempotency main; idempotency_key $nobody_knows; }'], qr/unknown "nobody_knows" variable/;
for my $method (qw(HEAD CONNECT TRACE)) {
    my ($status, $output) = nginx_says(server => "location / { idempotency main; idempotency_methods POST $method; }");
    is $status, 0, "idempotency_methods $method is no error";
    like $output, qr/\[warn\] "$method" in "idempotency_methods" has no effect/, 'but a warning tells that it is never covered';
}
is_wrong_value 'idempotency_methods', $_, qr/method/, 'such as POST' for qw(post Post ""), '"PO ST"';
is_wrong_value 'idempotency_methods', 'POST,PUT', 'several methods are separated by spaces';
is_wrong 'an unknown method among others', [server => 'idempotency_methods POST post;'], 'invalid value "post" in "idempotency_methods"';
is_wrong_value 'idempotency_methods', $_, 'not a method', '"POST PUT PATCH DELETE"' for qw(ALL ANY * all any All);
is_wrong 'all methods among others', [server => 'idempotency_methods POST ANY;'], 'invalid value "ANY" in "idempotency_methods"';

# A scope: the values, and which of them the message names.
sub is_wrong_scope {
    my ($values, $wrong, @right) = @_;
    is_wrong "idempotency_scope $values", [server => "location / { idempotency main; idempotency_scope $values; }"],
        "invalid value \"$wrong\" in \"idempotency_scope\"", @right;
}

my @variable = ('value with a variable, such as $http_x_api_key', '"off" alone');
is_wrong_scope '""', '', @variable;
is_wrong_scope $_, $_, @variable for qw(tenant ANY on http_x_api_key);
is_wrong_scope '$arg_a ""', '', @variable;
is_wrong_scope "\$arg_a tenant$_", 'tenant', @variable for '', ' $arg_b', ' any';
is_wrong_scope 'any', 'any', 'must follow one or more values', '$http_x_api_key any';
is_wrong_scope $_, 'any', 'must be the last parameter' for 'any $arg_a', '$arg_a any $arg_b', '$arg_a any any', 'any any';
is_wrong_scope $_, 'off', 'must be the only parameter' for 'off $arg_a', '$arg_a off', '$arg_a off any', 'off off', 'off any';
is_wrong_scope join(' ', map { "\$arg_a$_" } 1 .. 256), '$arg_a256', 'at most 255 values';
is_right "a scope with $_->[0]", server => "location / { idempotency main; idempotency_scope $_->[1]; }"
    for ['one value and any', '$arg_a any'], ['two values', '$arg_a "$arg_b/$arg_c"'], ['a value named as the last word', '$arg_a $arg_any any'],
        ['255 values', join ' ', map { "\$arg_a$_" } 1 .. 255], ['255 values and any', join ' ', (map { "\$arg_a$_" } 1 .. 255), 'any'],
        ['a capture of a regular expression', '$1$2'];
is_wrong 'a scope with an unknown variable', [server => 'location / { idempotency main; idempotency_scope $arg_a $nobody_knows; }'], qr/unknown "nobody_knows" variable/;
is_wrong "idempotency_fingerprint with $_", [server => "idempotency_fingerprint \$request_uri $_;"], "invalid value \"$_\" in \"idempotency_fingerprint\"",
    'body=on', 'body=off' for qw(body=yes body off body=);
is_wrong 'idempotency_fingerprint with an empty parameter', [server => 'idempotency_fingerprint $request_uri "";'],
    'invalid value "" in "idempotency_fingerprint"', '"body=on" or "body=off"';

# A fingerprint: the parameters, and which of them the message names.
sub is_wrong_fingerprint {
    my ($parameters, $wrong, @right) = @_;
    is_wrong "idempotency_fingerprint $parameters", [server => "location / { idempotency main; idempotency_fingerprint $parameters; }"],
        "invalid value \"$wrong\" in \"idempotency_fingerprint\"", @right;
}

is_wrong_fingerprint "\$request_uri $_", $_, 'this version does not support', '"body=on" or "body=off"' for qw(body=json body=form);
is_wrong_fingerprint "\$request_uri $_", 'except=/a', 'this version does not support "except"' for 'except=/a', 'body=on except=/a', 'except=/a except=/b';
is_wrong_fingerprint '$request_uri body=json except=/a', 'body=json', 'this version does not support';
is_wrong_fingerprint $_, (split / /)[0], '"$request_method $host$request_uri" must stand before it' for 'body=on', 'body=off', 'body=off $request_uri', 'except=/a';
is_wrong_fingerprint "\$request_uri $_", (split / /)[1], 'it is given twice: remove one of them' for 'body=on body=off', 'body=off body=off';
is_wrong 'idempotency_fingerprint without a value', [server => 'idempotency_fingerprint;'], '"idempotency_fingerprint"', 'number of arguments';
is_wrong 'idempotency_scope without a value', [server => 'idempotency_scope;'], '"idempotency_scope"', 'number of arguments';
is_wrong_value "idempotency_$_->[0]", $_->[1], qr/time above 0/ for map { my $d = $_; map { [$d, $_] } qw(0 0s 0ms -1s 1x soon "") } qw(ttl lease keepalive_idle);
is_wrong "idempotency_ttl 1h $_->[0]", [server => "idempotency_ttl 1h $_->[0];"], "invalid value \"" . ($_->[0] =~ s/.* //r) . '" in "idempotency_ttl"', $_->[1]
    for ['5m', 'CODE=TIME'], ['404', 'CODE=TIME'], ['6xx=1h', 'status code from 200'], ['600=1h', 'status code from 200'], ['=1h', 'status code from 200'],
        ['404=', 'after "=" it must be a time above 0'], ['404=0', 'after "=" it must be a time above 0'], ['5xx=1y', 'ms, s, m, h, d or w'], ['5xx=5min', 'ms, s, m, h, d or w'], ['404=1h 404=2h', 'this CODE is given twice: remove one of them'];
is_wrong_value 'idempotency_ttl', '404=1h', 'a TIME for all other codes must stand before it, as in "24h 404=1h"';
is_wrong_value 'idempotency_ttl', '24hours', 'a unit of ms, s, m, h, d or w';

# A directive with several arguments: the wrong one.
sub is_wrong_argument {
    my ($directive, $arguments, $wrong, @right) = @_;
    is_wrong "$directive $arguments", [server => "$directive $arguments;"], "invalid value \"$wrong\" in \"$directive\"", @right;
}

is_wrong_argument 'idempotency_quota', @$_ for
    ['on', 'on', 'VALUE RATE [burst=N]'], ['$remote_user', '$remote_user', 'VALUE RATE [burst=N]'], ['off 1r/s', '1r/s', '"off" alone'], ['fixed 1r/s', 'fixed', 'a value with a variable'],
    (map { ["\$remote_user $_", $_, 'per second or per minute'] } qw(1 r/s 0r/s -1r/s 1r/h 1.5r/s 1000001r/s 5)),
    (map { ["\$remote_user 1r/s $_", $_, 'burst=N'] } qw(5 burst= burst=-1 burst=x burst=1000001 nodelay));
is_wrong 'idempotency_quota with four arguments', [server => 'idempotency_quota $remote_user 1r/s burst=1 x;'], 'number of arguments';
is_wrong_argument 'idempotency_answer', @$_ for
    (map { ["$_ 409", $_, 'the code of a response of this module', 'idempotency_key_reused'] } qw(key_reused 502 IDEMPOTENCY_KEY_REUSED)),
    (map { ["idempotency_key_reused $_", $_, 'from 400 to 599'] } qw(399 600 200 -1 conflict 4xx)),
    (map { ["idempotency_key_reused 409 $_", $_, 'code=NAME'] } 'conflict', 'code=', 'code=a/b', 'code=' . 'x' x 65);
is_wrong 'idempotency_answer twice for one code', [server => 'idempotency_answer store_unavailable 500; idempotency_answer store_unavailable 503;'],
    'invalid value "store_unavailable" in "idempotency_answer"', 'this code is given twice: remove one of them';
is_wrong_value 'idempotency_replayed_header', $_, 'a header that no response has otherwise' for qw(Content-Length transfer-encoding Connection Set-Cookie X-Accel-Idempotency X-Accel-Redirect Content-Type);
is_wrong_value 'idempotency_conflict', $_, qr/"reject" or "wait TIME"/ for qw(hold wait "");
is_wrong "idempotency_conflict wait $_", [server => "idempotency_conflict wait $_;"], "invalid value \"$_\" in \"idempotency_conflict\"", 'time above 0'
    for qw(0 0ms soon);
is_wrong 'idempotency_conflict reject 5s', [server => 'idempotency_conflict reject 5s;'], 'invalid value "5s" in "idempotency_conflict"', '"reject" or "wait TIME"';
is_wrong_value 'idempotency_unknown', $_, qr/"hold", "release" or "store"/ for qw(keep wait "");
is_wrong "idempotency_unknown hold $_", [server => "idempotency_unknown hold $_;"], "invalid value \"$_\" in \"idempotency_unknown\"", 'time above 0' for qw(0 0s soon);
is_wrong "idempotency_unknown $_ 1h", [server => "idempotency_unknown $_ 1h;"], 'invalid value "1h" in "idempotency_unknown"', '"hold"' for qw(release store);
is_wrong 'a lease that is too short for Redis', [stores => 'idempotency_store main { redis redis://127.0.0.1; }', server => 'idempotency main; idempotency_lease 1s;'],
    '"idempotency_lease"', '"main"', '"connect_timeout" and "timeout"', qr/ of "idempotency" in \S+nginx\.conf:\d+: it must/;
is_wrong_value 'idempotency_retriable', $_, qr/status codes|classes|none/, 'UNAVAILABLE' for qw(99 600 1000 5x 6xx 0xx xx -1 abc OK unavailable "");
is_wrong "idempotency_retriable $_", [server => "idempotency_retriable $_;"], 'invalid value "none" in "idempotency_retriable"', '"none" alone'
    for '503 none', 'none 503';
is_wrong "idempotency_max_unsent $_", [http => "idempotency_max_unsent $_;"], 'in "idempotency_max_unsent"', 'a size above 0 with a unit of k, m or g, such as 128m' for qw(0 -1 lots 1t);
is_right 'idempotency_max_unsent 1g', http => 'idempotency_max_unsent 1g;';
is_wrong 'idempotency_max_unsent twice', [http => 'idempotency_max_unsent 1m; idempotency_max_unsent 1m;'], '"idempotency_max_unsent" directive is duplicate';
is_wrong 'a limit below the largest response', [http => 'idempotency_max_unsent 1m;', server => 'idempotency main; idempotency_max_body 1025k;'],
    '"idempotency_max_unsent" is 1048576 bytes, less than an "idempotency_max_body" of 1049600 bytes: enlarge "idempotency_max_unsent", or lower "idempotency_max_body"';
is_right 'a large response without a limit', server => 'idempotency main; idempotency_max_body 256m;';
is_wrong_value 'idempotency_max_body', $_, 'a size up to 256m with a unit of k, m or g, such as 1m' for qw(1x -1 lots 1g 999g 1t "");
is_wrong_value 'idempotency_stream', $_, 'a media type such as text/event-stream, without "*"' for qw(* text/* stream text/ /plain text/a/b on "" after=5s), '"text/a b"';
is_wrong 'idempotency_stream with a wrong time', [server => 'idempotency_stream text/plain after=0;'], 'invalid value "after=0"', 'after "=" it must be a time above 0 with a unit of ms';
is_wrong 'idempotency_stream with off and a type', [server => 'idempotency_stream text/plain off;'], 'invalid value "off"';
is_wrong_value 'idempotency_hide_header', $_, qr/name of a header/ for '"X Secret"', 'X:Secret', '""';
is_wrong_value 'idempotency_store_error', $_, qr/"reject" or "pass"/ for qw(ignore on "");
is_wrong_value 'idempotency_replayed_header', $_, qr/name of a header/, '"off"' for '"X Replayed"', 'X:Replayed', 'on', '""';
is_wrong_value 'idempotency_status', $_, 'it must be "json", "prometheus" or "html"' for qw(xml JSON "");
is_wrong_value 'idempotency_problem_base', $_, qr/URI/ for '"https://a b/"', '"<x>"', '""';

is_wrong_value 'idempotency_problem_base', $_, 'a URI with its scheme' for qw(nope example.com/problems :x 1a:b https: problems/a:b);
is_right "idempotency_problem_base $_", server => "idempotency_problem_base $_;" for qw(/problems/ urn:example:problem: https://a.example/ tag:a.example:p-);

# Configurations that nginx accepts with a warning.

# `parts`: a server, or several parts of the configuration.
sub is_warned_of {
    my ($name, $parts, @expected) = @_;
    my ($status, $output) = nginx_says(ref $parts ? @$parts : (server => $parts));
    my @lines = $output =~ /^\w+: (\[warn\] .*)$/mg;

    is $status, 0, "$name is accepted";
    is scalar(@lines), 1, "$name: one warning" or diag $output;
    my @missing = grep { ($lines[0] // '') !~ $_ } map { ref ? $_ : qr/\Q$_\E/ } @expected;
    ok !@missing, "$name: the warning tells what is wrong" or diag "no @missing in: ", $lines[0] // $output;
}

is_warned_of "idempotency_bypass $_", "idempotency_bypass \$arg_a $_;", "\"$_\" in \"idempotency_bypass\" is a constant: no request is covered", 'idempotency off' for qw(1 on);
is_warned_of 'idempotency_bypass 0', 'idempotency_bypass 0;', '"0" in "idempotency_bypass" is a constant that never applies';
is_warned_of 'idempotency beside return', 'location / { idempotency main; return 204; }', qr/"idempotency" in \S+nginx\.conf:\d+ has no effect beside "return": /;
is_right 'return in a location that inherits idempotency', server => 'idempotency main; location / { return 204; }';
is_right 'a conditional return', server => 'location / { idempotency main; if ($arg_x) { return 204; } proxy_pass http://127.0.0.1:1; }';
is_warned_of "$_->[0]_request_buffering off", "location / { idempotency main; $_->[0]_request_buffering off; $_->[1]; }", qr/"idempotency" in \S+nginx\.conf:\d+ reads the request body first/, "\"$_->[0]_request_buffering off\"", '"body=off"'
    for ['proxy', 'proxy_pass http://127.0.0.1:1'], ['fastcgi', 'fastcgi_pass 127.0.0.1:1'], ['uwsgi', 'uwsgi_pass 127.0.0.1:1'], ['scgi', 'scgi_pass 127.0.0.1:1'];
is_right 'a streamed body that is not part of the fingerprint', server => 'location / { idempotency main; idempotency_fingerprint $request_uri body=off; proxy_request_buffering off; proxy_pass http://127.0.0.1:1; }';
is_right 'a streamed body without idempotency', server => 'proxy_request_buffering off; location / { proxy_pass http://127.0.0.1:1; }';
my $mixed = 'redis redis://127.0.0.1; topology sentinel m master_ssl=on;';
is_warned_of 'TLS to the master alone', [stores => "idempotency_store main { $mixed }"], 'store "main"', 'set "ssl_trusted_certificate" or "ssl_name"';
is_right "TLS to the master alone, with '$_'", stores => "idempotency_store main { $mixed $_ }" for 'ssl_name redis.internal;', 'ssl_verify off;';
is_right 'TLS to sentinels', stores => 'idempotency_store main { redis rediss://127.0.0.1; topology sentinel m; }';
is_right 'gRPC', server => 'location / { idempotency main; grpc_pass 127.0.0.1:1; }';

# Duplicate directives, and directives in the wrong place.

for my $twice ('idempotency main', 'idempotency_key $arg_a', 'idempotency_methods POST', 'idempotency_scope $arg_a', 'idempotency_fingerprint $arg_a',
    'idempotency_ttl 1h', 'idempotency_lease 1s', 'idempotency_keepalive_idle 1s', 'idempotency_conflict reject', 'idempotency_unknown hold', 'idempotency_retriable 503',
    'idempotency_max_body 1m', 'idempotency_stream off', 'idempotency_store_error pass', 'idempotency_quota $remote_user 1r/s', 'idempotency_replayed_header A',
    'idempotency_problem_base https://a/')
{
    my ($directive) = $twice =~ /^(\S+)/;
    is_wrong "'$directive' twice", [server => "location / { $twice; $twice; }"], "\"$directive\"", 'is duplicate';
    is_wrong "'$directive' outside of http", [main => "$twice;"], "\"$directive\"", 'is not allowed here';
    is_wrong "'$directive' in an if", [server => "location / { if (\$arg_x) { $twice; } }"], "\"$directive\"", 'is not allowed here';
}

for my $twice ('idempotency_status; idempotency_status', 'idempotency_status; idempotency_status html', 'idempotency_status json; idempotency_status') {
    is_wrong "'$twice'", [server => "location / { $twice; }"], '"idempotency_status"', 'is duplicate';
}

is_wrong "'$_'", [server => "location / { $_ }"], '"idempotency_status" and "idempotency_admin" are in one location: each must have a location of its own'
    for 'idempotency_status; idempotency_admin; deny all;', 'idempotency_admin; idempotency_status; deny all;';
is_wrong "'idempotency_status' in $_->[0]", [$_->[1] => "$_->[2];"], '"idempotency_status"', 'is not allowed here'
    for ['main', main => 'idempotency_status'], ['http', http => 'idempotency_status'], ['a server', server => 'idempotency_status json'],
        ['an if', server => 'location / { if ($arg_x) { idempotency_status; } }'];
is_wrong "'idempotency_status' with two words", [server => 'location / { idempotency_status json html; }'], '"idempotency_status"', 'invalid number of arguments';

for my $directive ('idempotency_hide_header A', 'idempotency_bypass $arg_a') {
    my ($name) = $directive =~ /^(\S+)/;
    is_wrong "'$name' outside of http", [main => "$directive;"], "\"$name\"", 'is not allowed here';
}

is_wrong 'a store in a server', [server => 'idempotency_store other { memory 1m; }'], '"idempotency_store"', 'is not allowed here';
is_wrong 'a store outside of http', [main => 'idempotency_store other { memory 1m; }'], '"idempotency_store"', 'is not allowed here';
is_wrong 'an engine outside of a store', [http => 'memory 1m;'], '"memory"', 'unknown directive';

done_testing;
