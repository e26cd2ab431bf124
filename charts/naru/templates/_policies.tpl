{{/* What network policies are made of. */}}

{{/* The release's pods of one name, from any namespace; call with (dict "root" $ "name" "naru-gateway"). */}}
{{- define "naru.policy.pods" -}}
- namespaceSelector:
    matchLabels: {kubernetes.io/metadata.name: {{ .root.Release.Namespace }}}
  podSelector:
    matchLabels: {{- include "naru.selector" . | nindent 6 }}
{{- end }}

{{/* Workers, wherever they are. */}}
{{- define "naru.policy.workers" -}}
- namespaceSelector: {}
  podSelector:
    matchLabels: {app.kubernetes.io/name: naru-worker, app.kubernetes.io/managed-by: naru}
{{- end }}

{{/* Into the port of /metrics; call with .Values.networkPolicies. */}}
{{- define "naru.policy.scraped" -}}
{{- with .scrapers -}}
- from: {{- toYaml . | nindent 4 }}
  ports: [{port: 9090}]
{{- end }}
{{- end }}

{{/* Out to who answers names; call with .Values.networkPolicies. */}}
{{- define "naru.policy.names" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  {{- with .dns }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* Out to peers and ports that the values give; no peers: anywhere. */}}
{{- define "naru.policy.destination" -}}
- ports:
  {{- range .ports }}
    - {port: {{ . }}}
  {{- end }}
  {{- with .peers }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* Out to the collector of traces, by the port of its address; call with .Values.traces.endpoint. */}}
{{- define "naru.policy.collector" -}}
{{- with . -}}
- ports: [{port: {{ regexFind "[0-9]+$" (regexFind ":[0-9]+$" (urlParse .).host) | default "4317" }}}]
{{- end }}
{{- end }}
