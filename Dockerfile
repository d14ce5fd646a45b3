# geoseg for CPUs. Build and run it:
#   docker build -t geoseg .
#   docker run --rm -v "$PWD:/data" geoseg predict scene.tif -o results
FROM python:3.12-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python -m venv /opt/geoseg
COPY constraints.txt .
RUN /opt/geoseg/bin/pip install --no-cache-dir -c constraints.txt torch \
    --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE ./
COPY geoseg geoseg
COPY cli cli
COPY configs configs
RUN /opt/geoseg/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home geoseg
COPY --from=build /opt/geoseg /opt/geoseg
USER geoseg
WORKDIR /data
ENTRYPOINT ["/opt/geoseg/bin/geoseg"]
CMD ["--help"]
