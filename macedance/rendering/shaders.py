"""GLSL 3.30 of the OpenGL rasteriser: the same formulas as kernels.py, so that both draw the same picture.

The picture is drawn upside down (clip y is negated): OpenGL reads the bottom row first, and we want the top one.
"""

from __future__ import annotations

STAGE_VERTEX = """
#version 330
void main() {
    // One triangle that covers the picture.
    vec2 corner = vec2((gl_VertexID << 1) & 2, gl_VertexID & 2);
    gl_Position = vec4(corner * 2.0 - 1.0, 0.0, 1.0);
}
"""

STAGE_FRAGMENT = """
#version 330
uniform vec3 eye, right, up, forward;
uniform vec3 floor_light, floor_dark, backdrop_low, backdrop_high;
uniform vec2 origin, centre, size, fog;
uniform float tan_half, texel, spot, tile, vignette, shadow, contact;
uniform sampler2D maps;
out vec4 colour;

vec2 triangle_wave(vec2 value) {
    vec2 phase = value - 2.0 * floor(value * 0.5);
    return mix(2.0 - phase, phase, lessThan(phase, vec2(1.0)));
}

vec2 square_wave(vec2 value, vec2 width) {
    return (triangle_wave(value + 0.5 * width) - triangle_wave(value - 0.5 * width)) / width;
}

void main() {
    vec2 pixel = gl_FragCoord.xy;
    float step_ = 2.0 * tan_half / size.y;
    float sx = (pixel.x - 0.5 * size.x) * step_;
    float sy = (0.5 * size.y - pixel.y) * step_;
    vec3 row = forward + sy * up;
    float rise = row.y / length(row.xz);
    vec3 result = mix(backdrop_low, backdrop_high, smoothstep(-0.02, 0.34, rise));
    if (row.y < -1e-4) {
        float t = -eye.y / row.y;
        vec3 ray = row + sx * right;
        vec2 place = eye.xz + t * ray.xz;
        vec2 width = max(t * step_ * (abs(right.xz) + abs(up.xz - row.xz * up.y / row.y)) / tile, vec2(1e-4));
        float away = distance(place, centre);
        float haze = smoothstep(fog.x, fog.y, away);
        float mixing = 0.5;
        if (width.x < 4.0 && width.y < 4.0) {
            vec2 wave = square_wave(place / tile, width);
            mixing = 0.5 - 0.5 * wave.x * wave.y;
        }
        float light = 1.0 - spot * smoothstep(0.5, 4.5, away);
        vec2 side = vec2(textureSize(maps, 0));
        vec2 cell = (place - origin) / texel;
        if (all(greaterThanEqual(cell, vec2(0.5))) && all(lessThan(cell, side - 0.5))) {
            vec3 here = texture(maps, cell / side).rgb;
            light *= (1.0 - shadow * here.g) * (1.0 - contact * min(here.b, 1.0));
        }
        result = mix(light * mix(floor_dark, floor_light, mixing), result, haze);
    }
    vec2 corner = 2.0 * pixel / size - 1.0;
    colour = vec4(result * (1.0 - vignette * smoothstep(0.45, 1.9, dot(corner, corner))), 1.0);
}
"""

BODY_VERTEX = """
#version 330
uniform vec3 eye, right, up, forward;
uniform float tan_half, aspect;
in vec3 in_position, in_normal, in_colour;
out vec3 position, normal, albedo;
const float NEAR = 0.05, FAR = 60.0;

void main() {
    vec3 relative = in_position - eye;
    float depth = dot(relative, forward);
    float x = dot(relative, right) / (tan_half * aspect);
    float y = -dot(relative, up) / tan_half;
    float z = (depth * (FAR + NEAR) - 2.0 * FAR * NEAR) / (FAR - NEAR);
    gl_Position = vec4(x, y, z, depth);
    position = in_position;
    normal = in_normal;
    albedo = in_colour;
}
"""

BODY_FRAGMENT = """
#version 330
uniform vec3 eye, to_light, rim_colour;
uniform vec4 light;
uniform vec2 origin;
uniform float texel, specular, fill;
uniform sampler2D maps;
in vec3 position, normal, albedo;
out vec4 colour;

float occluder(ivec2 cell, float limit) {
    return texelFetch(maps, cell, 0).r > limit ? 1.0 : 0.0;
}

float lit_share(vec3 point) {
    vec2 cell = (point.xz - point.y * to_light.xz / to_light.y - origin) / texel - 0.5;
    ivec2 side = textureSize(maps, 0);
    if (any(lessThan(cell, vec2(0.0))) || any(greaterThanEqual(cell, vec2(side - 1)))) return 1.0;
    ivec2 low = ivec2(floor(cell));
    vec2 part = cell - vec2(low);
    float limit = point.y + 0.045;
    float near_row = mix(occluder(low, limit), occluder(low + ivec2(1, 0), limit), part.x);
    float far_row = mix(occluder(low + ivec2(0, 1), limit), occluder(low + ivec2(1, 1), limit), part.x);
    return 1.0 - mix(near_row, far_row, part.y);
}

void main() {
    vec3 n = normalize(normal);
    vec3 v = normalize(eye - position);
    float facing = dot(n, to_light);
    float key = 0.0, shine = 0.0;
    if (facing > 0.0) {
        float lit = lit_share(position + 0.02 * n);
        key = light.x * facing * lit;
        float half_way = max(dot(n, normalize(to_light + v)), 0.0);
        shine = specular * lit * pow(half_way, 24.0);
    }
    float above = 0.5 + 0.5 * n.y;
    float ambient = mix(light.z, light.y, above) * (0.55 + 0.45 * smoothstep(-0.05, 0.35, position.y));
    float towards = max(dot(n, v), 0.0);
    float edge = 1.0 - towards;
    float rim = light.w * edge * edge * edge * above;
    vec3 result = albedo * (ambient + key + fill * towards) + shine + rim * rim_colour;
    colour = vec4(sqrt(min(result, vec3(1.0))), 1.0);
}
"""
