#!/usr/bin/env bash
# Installs what the tests need into .tools, at versions that resolve and build
# together: all of the list but what stands in named, or the programs that are
# named as arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/.tools
mkdir -p "$tools"

# Version, module, build tags, commands. Commands of one module are built at
# once, which compiles what they share once; the quicker modules come first.
list=$(cat <<'LIST'
v1.9.0 golang.org/x/vuln - govulncheck
v0.31.1 github.com/prometheus/alertmanager - amtool alertmanager
v2.15.0 github.com/golangci/golangci-lint/v2 - golangci-lint
v0.316.0 github.com/prometheus/prometheus remove_all_sd promtool prometheus
v0.0.0-20260908200009-22c9c6c9d4da golang.org/x/perf - benchstat
v3.22.0 helm.sh/helm/v3 - helm
v2.45.0 github.com/goreleaser/nfpm/v2 - nfpm
v1.7.12 github.com/rhysd/actionlint - actionlint
v1.10.0 github.com/CycloneDX/cyclonedx-gomod - cyclonedx-gomod
v2.16.0 github.com/goreleaser/goreleaser/v2 - goreleaser
LIST
)
# npm packages: version, package. gitlab-ci-local reads .gitlab-ci.yml by GitLab's
# own schema; of renovate only its schema is used.
npm=$(cat <<'LIST'
4.61.1 gitlab-ci-local
44.121.2 renovate
LIST
)
# Installed only where they are named: what make test has no use for.
named=" benchstat helm nfpm actionlint cyclonedx-gomod goreleaser kube-apiserver kubectl gitlab-ci-local renovate "

wanted() { # name, arguments
  local name=$1
  shift
  if [ $# -eq 0 ]; then [[ "$named" != *" $name "* ]]; else [[ " $* " == *" $name "* ]]; fi
}

missing=()
while read -r version module tags commands; do
  for name in $commands; do
    have=$(go version -m "$tools/$name" 2>/dev/null | awk '$1 == "mod" {print $3}' || true)
    if wanted "$name" "$@" && [ "$have" != "$version" ]; then
      missing+=("$version $module $tags $commands")
      break
    fi
  done
done <<<"$list"

done=0
for line in ${missing[@]+"${missing[@]}"}; do
  read -r version module tags commands <<<"$line"
  done=$((done + 1))
  echo "== tools, $done of ${#missing[@]}: ${commands// / and } $version, into .tools"
  packages=()
  for name in $commands; do
    [ "$name" = goreleaser ] && packages+=("$module@$version") || packages+=("$module/cmd/$name@$version")
  done
  [ "$tags" = - ] && tags=
  began=$SECONDS
  # Without symbols: linking is most of what a second program of a module costs.
  GOBIN=$tools go install -tags "$tags" -ldflags '-s -w' "${packages[@]}" </dev/null
  echo "   installed after $((SECONDS - began)) s"
done

# The API server of Kubernetes replaces its own modules, which go install refuses.
for name in kube-apiserver kubectl; do
  if wanted "$name" "$@" && [ "$tools/$name" -ot test/kubernetes/go.mod ]; then
    echo "== tools: $name, into .tools"
    (cd test/kubernetes && CGO_ENABLED=0 go build -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36' -o "$tools/$name" "k8s.io/kubernetes/cmd/$name")
  fi
done

while read -r version name; do
  if ! wanted "$name" "$@" || [ "$(cat "$tools/npm-$name/version" 2>/dev/null)" = "$version" ]; then
    continue
  fi
  echo "== tools: $name $version, into .tools"
  rm -rf "$tools/npm-$name"
  mkdir -p "$tools/npm-$name"
  case $name in
    renovate)
      (cd "$tools/npm-$name" && npm pack --silent "renovate@$version" >/dev/null && tar xzf renovate-*.tgz package/renovate-schema.json && rm renovate-*.tgz)
      ;;
    *)
      npm install --silent --ignore-scripts --no-save --prefix "$tools/npm-$name" "$name@$version" </dev/null
      ;;
  esac
  echo "$version" >"$tools/npm-$name/version"
done <<<"$npm"
