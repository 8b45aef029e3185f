package IdempotencyTest::Ways;

# The locations of the matrix tests: each is a way to a content handler, with an access check somewhere on this way.

use strict;
use warnings;

use Exporter 'import';
use MIME::Base64 ();

our @EXPORT_OK = qw(ways_cases ways_http ways_locations ways_files good bad);

# A client that each check allows, and one that each check refuses.
sub good { return 'X-Token: good', 'X-Real-IP: 10.0.0.1', 'Authorization: Basic ' . MIME::Base64::encode('alice:right', '') }
sub bad { return 'X-Token: bad', 'X-Real-IP: 10.0.0.2' }

# What responds. `module`: of Debian. `not_kept`: the response is never kept.
sub handlers {
    my ($app, $files) = @_;
    my %cgi = map {
        my $name = $_;
        my $params = join ' ', map { "${name}_param $_;" } 'REQUEST_METHOD $request_method', 'CONTENT_LENGTH $content_length', 'REQUEST_URI /cgi';
        $name => {text => "$params ${name}_pass " . $app->gateway($name) . ';'};
    } qw(fastcgi scgi uwsgi);

    # subrequests of Lua do not work over HTTP/2
    my $lua = <<'END' =~ s/PORT/$app->port/er;
content_by_lua_block {
        local app = ngx.socket.tcp()
        app:connect('127.0.0.1', PORT)
        app:send('POST /lua HTTP/1.0\r\nApp-Space: ' .. ngx.var.http_app_space .. '\r\nApp-Gate: ' .. (ngx.var.http_app_gate or '') .. '\r\n\r\n')
        local reply = app:receive('*a')
        ngx.status = 201
        ngx.header['X-Lua'] = 'lua'
        ngx.print(reply:match('\r\n\r\n(.*)'))
    }
END

    return (
        %cgi,
        proxy => {text => 'proxy_pass http://app/run$nothing;', in_if => 'proxy_pass http://app;'},
        unbuffered => {text => 'proxy_buffering off; proxy_pass http://app/run?framing=chunked&pieces=2$nothing;'},
        large => {text => 'proxy_pass http://app/run?size=5000$nothing;', not_kept => 1},
        filtered => {text => 'add_header X-Where $uri always; gzip on; gzip_min_length 1; gzip_types *; sub_filter run ran; proxy_pass http://app/run$nothing;'},
        grpc => {text => 'grpc_pass grpc://' . $app->gateway('grpc') . ';'},
        lua => {module => 'lua', text => $lua},
        js => {module => 'js', text => 'js_content ways.respond;'},
        # a response that is sent before its subrequests is not kept
        echo => {module => 'echo', text => 'echo_location /sub; echo end;', not_kept => 1},
        file => {text => "rewrite ^ /file.txt break; root $files;"},
        return => {text => 'return 202 "returned";', is_uncovered => 1},
    );
}

# Access checks.
sub checks {
    my ($files) = @_;
    my $password = "auth_basic realm; auth_basic_user_file $files/users;";

    return (
        none => {text => ''},
        address => {text => 'allow 10.0.0.1; deny all;'},
        password => {text => $password},
        subrequest => {text => 'auth_request /auth;'},
        any => {text => "satisfy any; deny 10.0.0.2; $password"},
        limit_except => {text => 'limit_except PATCH { allow 10.0.0.1; deny all; }'},
        lua => {module => 'lua', text => 'access_by_lua_block { if ngx.var.http_x_token ~= "good" then ngx.exit(403) end }'},
        if => {text => 'if ($http_x_token != good) { return 403; }'},
    );
}

# Ways from one location to the next: `text` has the directives of the first. `to`: what the next one is. `exchange`: an application
# gets the request before. `uncovered`: what reaches the next location was refused.
sub ways {
    my $to_app = 'proxy_pass http://app/begin';

    return (
        index => {to => 'uri', slash => 1, text => sub { "index $_[0];" }},
        try_uri => {to => 'uri', text => sub { "try_files /nothing $_[0];" }},
        try_named => {to => 'named', text => sub { "try_files /nothing $_[0];" }},
        rewrite => {to => 'uri', rewrites => 1, text => sub { "rewrite ^ $_[0] last;" }},
        page_named => {to => 'named', exchange => 1, text => sub { "proxy_intercept_errors on; error_page 404 = $_[0]; $to_app?status=404\$nothing;" }},
        page_uri => {to => 'uri', exchange => 1, text => sub { "proxy_intercept_errors on; error_page 404 $_[0]; $to_app?status=404\$nothing;" }},
        page_status => {to => 'named', exchange => 1, text => sub { "proxy_intercept_errors on; error_page 410 =203 $_[0]; $to_app?status=410\$nothing;" }},
        retriable_named => {to => 'named', exchange => 1, retriable => 1, text => sub { "proxy_intercept_errors on; error_page 429 = $_[0]; $to_app?status=429\$nothing;" }},
        dead_named => {to => 'named', text => sub { "error_page 502 = $_[0]; proxy_pass http://dead;" }},
        refused_named => {to => 'named', uncovered => 1, text => sub { "error_page 418 = $_[0]; return 418;" }},
        refused_uri => {to => 'uri', uncovered => 1, text => sub { "error_page 418 $_[0]; return 418;" }},
        accel_uri => {to => 'uri', exchange => 1, text => sub { "$to_app?header=X-Accel-Redirect:$_[0]\$nothing;" }},
        accel_named => {to => 'named', exchange => 1, text => sub { "$to_app?header=X-Accel-Redirect:$_[0]\$nothing;" }},
        echo_uri => {to => 'uri', module => 'echo', text => sub { "echo_exec $_[0];" }},
        echo_named => {to => 'named', module => 'echo', text => sub { "echo_exec $_[0];" }},
        lua_uri => {to => 'uri', module => 'lua', text => sub { "content_by_lua_block { ngx.exec('$_[0]') }" }},
        lua_named => {to => 'named', module => 'lua', text => sub { "content_by_lua_block { ngx.exec('$_[0]') }" }},
        lua_rewrite => {to => 'uri', in_checks => 1, module => 'lua', text => sub { "rewrite_by_lua_block { ngx.exec('$_[0]') }" }},
        lua_access => {to => 'named', in_checks => 1, module => 'lua', text => sub { "access_by_lua_block { ngx.exec('$_[0]') }" }},
        js_uri => {to => 'uri', module => 'js', text => sub { "set \$js_target $_[0]; js_content ways.redirect;" }},
        js_named => {to => 'named', module => 'js', text => sub { "set \$js_target $_[0]; js_content ways.redirect;" }},
    );
}

# Every combination: of a handler, of a check, of its place on the way (the number of the location), of 0 to 2 ways.
# `has`: the modules that are there.
sub all_cases {
    my ($handler, $check, $way) = @_;
    my @paths = ([], map { [$_] } sort keys %$way);
    push @paths, map { my $first = $_; map { [$first, $_] } sort keys %$way } sort keys %$way;
    my @cases;

    for my $path (@paths) {
        for my $name (sort keys %$handler) {
            push @cases, map {
                my $check_name = $_;
                map { {ways => $path, handler => $name, check => $check_name, place => $_} } $check_name eq 'none' ? 0 : 0 .. @$path;
            } sort keys %$check;
        }
    }

    # access_by_lua_block stands only once in a location
    @cases = grep { !($_->{check} eq 'lua' && ($_->{ways}[$_->{place}] // '') eq 'lua_access') } @cases;
    # the echo module sends nothing if the request has had an upstream before
    return grep { my $case = $_; !($case->{handler} eq 'echo' && grep { $way->{$_}{exchange} } @{$case->{ways}}) } @cases;
}

# Of all cases a small part: each handler, each check and each way meet, and there are some with two ways in a row. `few`: each handler,
# each check and each way is there, and they do not all meet.
sub part_of {
    my ($few, @all) = @_;
    my @cases = grep { @{$_->{ways}} < 2 } @all;
    my @chosen = (grep { @{$_->{ways}} > 1 } @all)[0 .. ($few ? 9 : 59)];
    my %seen;

    # a location that is left before its access phase has checks too: a replay must not leave it out
    push @chosen, grep { $_->{check} eq 'if' && $_->{place} == 1 && $_->{handler} eq 'proxy'
        && "@{$_->{ways}}" =~ /^(?:page_named|accel_named|echo_named) lua_rewrite$/ } @all;

    for my $case (@cases) {
        my $check = "check $case->{check} " . ($case->{place} == @{$case->{ways}} ? 'at the end' : $case->{place});
        my $way = "way @{$case->{ways}}";
        my @features = $few ? ($check, $case->{handler}, $way)
            : ("$check, $case->{handler}", "$way, $check", "$way, $case->{handler}");
        next if ($few ? 1 : 2) > grep { !$seen{$_} } @features;
        push @chosen, $case;
        @seen{@features} = (1) x @features;
    }

    return @chosen;
}

# `app`, `files` (a directory), `has` (modules by name). `many`: so many of all combinations, and `seed` chooses them; else a part of
# them, the smaller one with `few`.
sub ways_cases {
    my (%options) = @_;
    my %handler = handlers(@options{qw(app files)});
    my %check = checks($options{files});
    my %way = ways();

    for my $part (\%handler, \%check, \%way) {
        delete @$part{grep { $part->{$_}{module} && !$options{has}{$part->{$_}{module}} } keys %$part};
    }

    my @cases = all_cases(\%handler, \%check, \%way);
    # in an order in which no feature has all its cases in a row, always the same for a seed
    my $factor = 7919 + 2 * ($options{seed} // 0);
    my %place = map { $_ => $_ * $factor % 1_000_003 } 0 .. $#cases;
    @cases = @cases[sort { $place{$a} <=> $place{$b} } 0 .. $#cases];
    @cases = $options{many} ? splice(@cases, 0, $options{many}) : part_of($options{few}, @cases);

    for my $n (0 .. $#cases) {
        my $case = $cases[$n];
        my @path = map { $way{$_} } @{$case->{ways}};
        $case->{number} = $n;
        $case->{name} = join ' ', (@{$case->{ways}} ? @{$case->{ways}} : 'direct'), '->', $case->{handler}, "($case->{check} $case->{place})";
        $case->{path} = "/w/$n/0" . (@path && $path[0]{slash} ? '/' : '');
        $case->{text} = case_text($case, \@path, \%handler, \%check);
        $case->{exchange} = grep { $_->{exchange} } @path;
        $case->{uncovered} = (grep { $_->{uncovered} } @path) || $handler{$case->{handler}}{is_uncovered};
        $case->{retriable} = grep { $_->{retriable} } @path;
        $case->{acts} = grep { $_->{exchange} && !$_->{retriable} } @path;
        $case->{unrecordable} = grep { is_unrecordable($_ == 0 ? undef : $path[$_ - 1], $path[$_], $_) } 0 .. $#path;
        $case->{not_kept} = $handler{$case->{handler}}{not_kept};
    }

    return @cases;
}

# A redirect out of the checks of a location that is not the first one is not recorded, and the response is not kept.
sub is_unrecordable {
    my ($before, $way, $n) = @_;
    return $n > 0 && ($way->{in_checks} || $way->{uncovered} || $way->{rewrites} && $before->{to} eq 'named');
}

sub case_text {
    my ($case, $path, $handler, $check) = @_;
    my $text = '';

    for my $n (0 .. @$path) {
        my $kind = $n == 0 ? 'uri' : $path->[$n - 1]{to};
        my $slash = $n < @$path && $path->[$n]{slash} ? '/' : '';
        my $name = $kind eq 'named' ? "\@w$case->{number}_$n" : "= /w/$case->{number}/$n$slash";
        my $next = $n == @$path ? '' : $path->[$n]{to} eq 'named' ? "\@w$case->{number}_" . ($n + 1)
            : "/w/$case->{number}/" . ($n + 1) . ($n + 1 < @$path && $path->[$n + 1]{slash} ? '/' : '');
        my $check_text = $n == $case->{place} ? $check->{$case->{check}}{text} : '';
        my $what = $n == @$path ? $handler->{$case->{handler}}{text} : $path->[$n]{text}->($next);
        $text .= "location $name { $check_text $what }\n";
    }

    return $text;
}

sub ways_files {
    my ($nginx) = @_;
    my $files = $nginx->directory . '/ways';
    mkdir $files;
    $nginx->write_file('ways/file.txt', "a file\n");
    $nginx->write_file('ways/users', "alice:{PLAIN}right\n");
    $nginx->write_file('ways/ways.js', <<'END');
function redirect(r) { r.internalRedirect(r.variables.js_target); }
function respond(r) {
    r.subrequest('/sub', {method: 'POST', body: 'x'}, reply => { r.headersOut['X-Js'] = 'js'; r.return(reply.status, reply.responseText); });
}
export default {redirect, respond};
END
    return $files;
}

# The server without the module is named `plain`. `listen`: of both servers.
sub ways_http {
    my (%options) = @_;
    my $js = $options{has}{js} ? "js_path $options{files}; js_import ways from ways.js;" : '';
    return "map \$host \$nothing { default ''; } $js upstream dead { server 127.0.0.1:$options{dead}; }\n"
        . "server { server_name plain; listen unix:$options{socket}; $options{listen} " . locations($options{cases}) =~ s/idempotency_\w+ [^;]*;//gr . " }\n";
}

sub ways_locations { my (%options) = @_; return "$options{listen} idempotency main; idempotency_scope off; idempotency_max_body 4k; " . locations($options{cases}) }

sub locations {
    my ($cases) = @_;
    return <<'END' . join '', map { $_->{text} } @$cases;
        set_real_ip_from 127.0.0.1;
        set_real_ip_from unix:;
        real_ip_header X-Real-IP;
        keepalive_requests 1000000;
        proxy_set_header Connection "";
        proxy_set_header App-Space $http_app_space;
        location = /sub { internal; proxy_pass http://app/sub; }
        location = /auth { internal; if ($http_x_token != good) { return 403; } return 204; }
END
}

1;
