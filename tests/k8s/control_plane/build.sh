#!/bin/bash
# build.sh FOLDER: a real Kubernetes 1.20 control plane from Debian's sources: kube-apiserver, -controller-manager, -scheduler.
# Some 10 minutes of two cores and 3 GB, once; later calls return at once. Debian 12, as root.
set -euo pipefail
folder=$(realpath -m "${1:?a folder}")
version=1.20.5+really1.20.2-1.1+deb12u1
programs="kube-apiserver kube-controller-manager kube-scheduler"
[ -e "$folder/complete" ] && exit
mkdir -p "$folder/bin" "$folder/gopath/src/k8s.io"
cd "$folder"

# Packages: a compiler, etcd, a reflect2 that newer Go can run, and the one source package that has Kubernetes' whole tree.
export DEBIAN_FRONTEND=noninteractive
mkdir -p parts lists/partial
sources() { printf 'Types: deb-src\nURIs: http://deb.debian.org/%s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$@" /usr/share/keyrings/debian-archive-keyring.gpg; }
sources debian bookworm > parts/main.sources
sources debian-security bookworm-security > parts/security.sources
cat > apt.conf <<C
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$folder/parts";
Dir::State::lists "$folder/lists";
APT::Sandbox::User "root";
C
apt-get update -qq
apt-get install -qq -y --no-install-recommends golang-go etcd-server golang-github-modern-go-reflect2-dev dpkg-dev >/dev/null
APT_CONFIG=$folder/apt.conf apt-get update -qq
ls kubernetes_*.orig.tar.gz >/dev/null 2>&1 || APT_CONFIG=$folder/apt.conf apt-get source -qq --download-only "kubernetes=$version"
if [ ! -d tree ]; then
  mkdir unpacked
  tar xzf kubernetes_*.orig.tar.gz -C unpacked --strip-components=1
  mv unpacked tree
fi

# The vendored reflect2 1.0.1 crashes the API server under Go 1.18 and newer; Debian's 1.0.2 does not.
reflect2=tree/vendor/github.com/modern-go/reflect2
rm -rf "$reflect2"
cp -r /usr/share/gocode/src/github.com/modern-go/reflect2 "$reflect2"
rm -f "$reflect2"/go_above_17.go "$reflect2"/go_below_17.go "$reflect2"/go_below_19.go

# GOPATH mode: with modules, Go wants to rewrite go.mod.
export GOPATH=$folder/gopath GOCACHE=$folder/gocache GO111MODULE=off GOFLAGS='' CGO_ENABLED=0
ln -sfn "$folder/tree" "$GOPATH/src/k8s.io/kubernetes"
cd "$GOPATH/src/k8s.io/kubernetes"
export PWD="$GOPATH/src/k8s.io/kubernetes"

# Debian leaves out the generated OpenAPI, which server-side apply needs.
go build -o "$folder/bin/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
packages=$(grep -rl --include='*.go' '+k8s:openapi-gen=' staging/src/k8s.io pkg cmd plugin vendor/k8s.io/kube-openapi \
  | grep -vE 'testdata|_test.go|generated|/kube-openapi/(cmd|pkg/generators)' | xargs -n1 dirname | sort -u \
  | sed -E 's#^staging/src/#k8s.io/kubernetes/vendor/#; t; s#^#k8s.io/kubernetes/#' \
  | grep -vE 'sample-|code-generator|legacy-cloud-providers|/kubectl/|apiextensions-apiserver/examples' | paste -sd,)
"$folder/bin/openapi-gen" --logtostderr -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
  --go-header-file hack/boilerplate/boilerplate.generatego.txt --output-base "$GOPATH/src" -r "$folder/violations" \
  2> "$folder/openapi.log" || true
test -s pkg/generated/openapi/zz_generated.openapi.go

flags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  for value in gitMajor=1 gitMinor=20 gitVersion=v1.20.2 gitCommit=debian gitTreeState=clean; do
    flags="$flags -X k8s.io/kubernetes/vendor/$package.$value"
  done
done
for program in $programs; do
  go build -ldflags "$flags" -o "$folder/bin/$program" "k8s.io/kubernetes/cmd/$program"
  echo "built $program"
done
rm -rf "$folder/gocache" "$folder/tree" "$folder/gopath"
touch "$folder/complete"
