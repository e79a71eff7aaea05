{{ ours }}. default.vcl next to it is not read.
vcl 4.1;

# HAProxy, which gives the request to one of the hosts of the site.
backend hosts {
    .path = "{{ hosts }}";
    .connect_timeout = 2s;
    # HAProxy times out first.
    .first_byte_timeout = 3600s;
    .between_bytes_timeout = 3600s;
}

sub vcl_recv {
    # A header that Connection names is not sent to a host, unless it is set here.
    set req.http.X-Forwarded-Proto = req.http.X-Forwarded-Proto;
    set req.http.X-Django-Site = req.http.X-Django-Site;
    # Varnish adds the address of its client, which is HAProxy.
    set req.http.X-Forwarded-For = regsub(req.http.X-Forwarded-For, ",.*$", "");
    # What follows is Varnish's own: a request with a cookie or a login is passed, and so is any but GET and HEAD.
}

sub vcl_hash {
    hash_data(req.http.X-Django-Site);
    hash_data(req.http.X-Forwarded-Proto);
}

sub vcl_backend_response {
    set beresp.http.X-Django-Site = bereq.http.X-Django-Site;
    # Without Cache-Control or Expires nothing is kept: default_ttl is 0. What follows is Varnish's own: a response with
    # Set-Cookie, with private, no-cache or no-store, or with Vary: * is not kept.
    if (beresp.http.Content-Length ~ "[0-9]{8}") {
        # Ten megabytes and more, from a file that the web server of a host sends as fast.
        set beresp.uncacheable = true;
    }
}

sub vcl_deliver {
    if (obj.hits > 0) {
        set resp.http.X-Cache = "hit";
        # It is that of the request which the response was made for.
        unset resp.http.X-Request-ID;
    } else {
        set resp.http.X-Cache = "miss";
    }
    unset resp.http.X-Django-Site;
    unset resp.http.X-Varnish;
    unset resp.http.Via;
}
