#!/bin/bash
# What an Envoy does before it is stopped: it sends clients and gateways elsewhere and lets running answers end.
ask() {
  exec 3<>/dev/tcp/127.0.0.1/9901
  printf '%s HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n' "$1" >&3
  cat <&3
  exec 3>&-
}
sleep 10 # as long as others may need to hear that this pod leaves
ask 'POST /drain_listeners?graceful' >/dev/null
while ask 'GET /stats?filter=^http.(edge|internal).downstream_rq_active$' | grep -q ': [1-9]'; do sleep 1; done
