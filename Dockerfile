# A static binary and nothing else, run by nobody in particular.
#
#   docker build -t gitlab_runner_fleet_exporter .
#   docker run -p 9756:9756 -v fleet:/data -e GITLAB_TOKEN gitlab_runner_fleet_exporter --gitlab.url=https://gitlab.example.com
#
# For another platform: docker build --platform linux/arm64 . compiles on the
# builder's own, without emulation.
FROM --platform=$BUILDPLATFORM docker.io/library/golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# Empty: asked of git, whose folder is a part of the context for that.
ARG VERSION=
ARG REVISION=
ARG BRANCH=
ARG BUILD_DATE=
ARG TARGETOS
ARG TARGETARCH
RUN pkg=github.com/prometheus/common/version \
    && CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} go build -trimpath -buildvcs=false -o /out/gitlab_runner_fleet_exporter \
      -ldflags "-s -w \
        -X $pkg.Version=${VERSION:-$(git describe --tags --always || echo unknown)} \
        -X $pkg.Revision=${REVISION:-$(git rev-parse HEAD || echo unknown)} \
        -X $pkg.Branch=${BRANCH:-$(git rev-parse --abbrev-ref HEAD || echo unknown)} \
        -X $pkg.BuildDate=${BUILD_DATE:-$(git log -1 --format=%cI || echo unknown)}" . \
    && mkdir -p /out/volume/data && chmod 0770 /out/volume/data

FROM scratch
LABEL org.opencontainers.image.title="gitlab_runner_fleet_exporter" \
      org.opencontainers.image.description="Prometheus exporter and fleet-health monitor for GitLab CI runners" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/gitlab_runner_fleet_exporter /gitlab_runner_fleet_exporter
# A new volume takes over owner and mode of what it covers. Group 0 may write,
# for platforms that choose the user themselves, with that group. The folder is
# copied as content, since not every builder keeps the mode of a target.
COPY --from=build --chown=65532:0 /out/volume/ /
# A variable and not an argument, so that arguments of `docker run` leave it in place.
ENV GITLAB_RUNNER_FLEET_STORAGE_PATH=/data
USER 65532:65532
VOLUME /data
EXPOSE 9756
# It knows variables, not the arguments of `docker run`: another address or a
# web.config.file is given as GITLAB_RUNNER_FLEET_WEB_….
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["/gitlab_runner_fleet_exporter", "--healthcheck"]
ENTRYPOINT ["/gitlab_runner_fleet_exporter"]
